//! The system calls that the BPF library does not offer: links without its silent fallback to netlink, maps in batches,
//! and the end of what read the maps.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};
use lb_common::Tick;

/// CPUs that packets may come on.
pub fn online_cpus() -> u64 {
    aya::util::online_cpus().map_or(1, |cpus| cpus.len() as u64)
}

/// A program attached to an interface. Closing it detaches, unless it is pinned.
#[derive(Debug)]
pub struct XdpLink(OwnedFd);

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Id of its program.
    pub program: u32,
    /// Index of its interface; 0 once the interface is gone.
    pub ifindex: u32,
}

impl XdpLink {
    /// Attaches `program` (kernel 5.9); `flags` are `XDP_FLAGS_*`.
    pub fn create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<Self> {
        let mut attr = empty_attr();
        attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
        attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
        attr.link_create.flags = flags;
        bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(owned).map(Self)
    }

    /// Opens a pinned link.
    ///
    /// # Errors
    ///
    /// There is none, or what is pinned there is not the link of an XDP program.
    pub fn from_pin(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = empty_attr();
        // SAFETY: of the union, this member is what BPF_OBJ_GET reads; all of it is zero so far.
        let object = unsafe { &mut attr.__bindgen_anon_4 };
        object.pathname = path.as_ptr() as u64;
        let link = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(owned).map(Self)?;
        link.info().map(|_| link)
    }

    /// Pins it: from now on it outlives this process.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = empty_attr();
        // SAFETY: of the union, this member is what BPF_OBJ_PIN reads; all of it is zero so far.
        let object = unsafe { &mut attr.__bindgen_anon_4 };
        object.bpf_fd = self.0.as_raw_fd() as u32;
        object.pathname = path.as_ptr() as u64;
        bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
    }

    /// Puts `program` in place of the one that runs: every packet meets the one or the other.
    pub fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = empty_attr();
        attr.link_update.link_fd = self.0.as_raw_fd() as u32;
        attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
        bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
    }

    /// Detaches, now: taking away the pin and the file descriptor alone does so some time later.
    pub fn detach(self) -> io::Result<()> {
        let mut attr = empty_attr();
        attr.link_detach.link_fd = self.0.as_raw_fd() as u32;
        bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
    }

    /// What it links.
    pub fn info(&self) -> io::Result<LinkInfo> {
        // SAFETY: integers and pointers for which zero is a value; the kernel fills in what applies.
        let mut info: bpf_link_info = unsafe { mem::zeroed() };
        let mut attr = empty_attr();
        attr.info.bpf_fd = self.0.as_raw_fd() as u32;
        attr.info.info = &raw mut info as u64;
        attr.info.info_len = size_of_val(&info) as u32;
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        if info.type_ != bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not the link of an XDP program"));
        }
        // SAFETY: the type says that this member of the union is the one filled in.
        let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
        Ok(LinkInfo { program: info.prog_id, ifindex })
    }
}

impl AsFd for XdpLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns when every program that was running at the call has ended: `membarrier(2)` waits for an RCU grace period
/// (kernel 4.16), programs run within RCU read-side sections. Takes about 10 ms.
///
/// # Errors
///
/// The kernel is built or started without it (`nohz_full`).
pub fn wait_for_readers() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    let (flags, cpu): (libc::c_uint, libc::c_int) = (0, 0);
    // SAFETY: takes integers only, and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, flags, cpu) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A walk over all entries of a hash map or an array, with the values of every CPU where each has its own: many entries for
/// each system call.
pub struct Batches<'m> {
    map: BorrowedFd<'m>,
    keys: Vec<u8>,
    values: Vec<u8>,
    key_size: usize,
    value_size: usize,
    /// What one call reads at most.
    most: usize,
    /// Where the last one ended: the number of a bucket of a hash map, the last index of an array.
    cursor: Option<u32>,
    has_ended: bool,
}

impl<'m> Batches<'m> {
    /// Over a map whose keys and values, those of all CPUs together, are of these sizes in bytes; at most `most` entries
    /// for a call.
    pub fn of(map: BorrowedFd<'m>, key_size: usize, value_size: usize, most: usize) -> Self {
        let (keys, values) = (vec![0; most * key_size], vec![0; most * value_size]);
        Self { map, keys, values, key_size, value_size, most, cursor: None, has_ended: false }
    }

    /// The next entries, key and value of each; `None` after the last.
    ///
    /// # Errors
    ///
    /// The kernel does not read them.
    pub fn read(&mut self) -> io::Result<Option<impl Iterator<Item = (&[u8], &[u8])>>> {
        if self.has_ended {
            return Ok(None);
        }
        let mut next = 0u32;
        let mut attr = empty_attr();
        attr.batch.in_batch = self.cursor.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor) as u64);
        attr.batch.out_batch = &raw mut next as u64;
        attr.batch.keys = self.keys.as_mut_ptr() as u64;
        attr.batch.values = self.values.as_mut_ptr() as u64;
        attr.batch.count = self.most as u32;
        attr.batch.map_fd = self.map.as_raw_fd() as u32;
        match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => self.cursor = Some(next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.has_ended = true,
            Err(error) => return Err(error),
        }
        // SAFETY: the member that the command is about.
        let count = unsafe { attr.batch.count } as usize;
        Ok(Some(self.keys.chunks(self.key_size).zip(self.values.chunks(self.value_size)).take(count)))
    }
}

/// Writes an entry of a map, of the sizes that it has; `flags` are `BPF_NOEXIST`, `BPF_EXIST` or 0.
pub fn update_of(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    element(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, key.as_ptr() as u64, value.as_ptr() as u64, flags)
}

/// Reads an entry of a map, of whatever size: `value` must have room for it, of every CPU where each has its own.
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, key.as_ptr() as u64, value.as_mut_ptr() as u64, 0)
}

/// The time that programs read, from its moment on and up to a few milliseconds later.
pub fn now() -> Tick {
    Tick::at(nanoseconds())
}

/// The same in seconds: it goes on over restarts of the daemon, but not of the machine.
pub fn seconds() -> u64 {
    nanoseconds() / 1_000_000_000
}

/// The time of the monotonic clock.
pub fn nanoseconds() -> u64 {
    // SAFETY: integers, for which zero is a value; the call fills them in.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: the pointer is valid for the call, which knows this clock on every system.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Does something with an entry of a map; `key` and `value` are addresses of as many bytes as the map says.
fn element(command: bpf_cmd, map: BorrowedFd<'_>, key: u64, value: u64, flags: u64) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: of the union, this member is what these commands read; all of it is zero so far.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = key;
    element.__bindgen_anon_1.value = value;
    element.flags = flags;
    bpf(command, &mut attr).map(drop)
}

fn empty_attr() -> bpf_attr {
    // SAFETY: a union of integers, for which zero is a value; the kernel asks for zeros where nothing is said.
    unsafe { mem::zeroed() }
}

/// The file descriptor or zero that the kernel answers with.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: `attr` is valid for its whole size; what its pointers lead to outlives the call at every caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this file descriptor for this call, nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
