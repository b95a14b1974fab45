//! A frame in an XDP program. The one place with raw packet pointers.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup, xdp_md},
    helpers::{self, bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};

use lb_common::{Address, Be32};

use crate::wire::{Frame, Words, fold};

/// The frame that an XDP program was called for.
pub struct XdpFrame<'a> {
    context: &'a XdpContext,
    /// Whether the program was loaded for frames of several buffers: asked where it matters, by few frames.
    multi_buffer: fn() -> bool,
}

impl<'a> XdpFrame<'a> {
    /// The frame of `context`.
    #[inline(always)]
    pub fn new(context: &'a XdpContext, multi_buffer: fn() -> bool) -> Self {
        Self { context, multi_buffer }
    }

    /// The context, for helpers and logs.
    #[inline(always)]
    pub fn context(&self) -> &XdpContext {
        self.context
    }

    /// Index of the interface that the frame came in by.
    #[inline(always)]
    pub fn ingress(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    /// Moves the start of the frame by `bytes`, to the front when negative. Offsets count from the new start
    /// afterwards. Whether there was room.
    #[inline(always)]
    #[must_use]
    pub fn adjust_head(&self, bytes: i32) -> bool {
        // SAFETY: the helper checks the distance; pointers into the frame are taken anew for every access.
        unsafe { bpf_xdp_adjust_head(self.raw(), bytes) == 0 }
    }

    /// Moves the end of the frame by `bytes`, to the front when negative. Whether it could be.
    #[inline(always)]
    #[must_use]
    pub fn adjust_tail(&self, bytes: i32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_tail(self.raw(), bytes) == 0 }
    }

    /// Whether this host's stack would send a packet between these addresses on to another host, if it came in by this
    /// frame's interface. As the stack decides it: by the routing tables, and not at all where the interface does not
    /// forward. Unlike the stack, of IPv6 it asks this interface and not the host whether it forwards.
    #[inline(always)]
    pub fn is_routed_on(&self, source: Address, destination: Address) -> bool {
        const AF_INET: u8 = 2;
        const AF_INET6: u8 = 10;
        // SAFETY: made of integers, of which zero is a value.
        let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
        route.ifindex = self.ingress();
        match (source.v4(), destination.v4()) {
            (Some(from), Some(to)) => {
                route.family = AF_INET;
                route.__bindgen_anon_3.ipv4_src = from.wire();
                route.__bindgen_anon_4.ipv4_dst = to.wire();
            }
            _ => {
                route.family = AF_INET6;
                route.__bindgen_anon_3.ipv6_src = source.0.map(Be32::wire);
                route.__bindgen_anon_4.ipv6_dst = destination.0.map(Be32::wire);
            }
        }
        let len = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: the helper reads and writes `len` bytes from the pointer on, which are `route`.
        let answer = unsafe { helpers::bpf_fib_lookup(self.raw().cast(), &raw mut route, len, 0) };
        answer != i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) && answer != i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
    }

    /// What the halves of `len` bytes at `offset` add up to, in host byte order, with carries folded in (RFC 1071). `len`: a
    /// constant, and a multiple of 4. `None` where the frame does not have them.
    #[inline(always)]
    pub fn sum(&self, offset: usize, len: usize) -> Option<u32> {
        // As much as the helper takes.
        const MOST: usize = 512;
        let (mut sum, mut at) = (0, 0);
        while at < len {
            let part = if len - at > MOST { MOST } else { len - at };
            let pointer = self.pointer(offset + at, part)?;
            // SAFETY: `pointer` checked that the frame has these bytes, and the helper only reads them.
            let added = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, pointer.cast(), part as u32, sum) };
            if added < 0 {
                return None;
            }
            sum = added as u32;
            at += part;
        }
        Some(u16::from_be(fold(sum)).into())
    }

    /// Writes two bytes at `offset`; whether the frame has them.
    #[inline(always)]
    #[must_use]
    pub fn set_half(&self, offset: usize, half: u16) -> bool {
        let Some(pointer) = self.pointer(offset, 2) else { return false };
        // SAFETY: `pointer` checked that the frame has these two bytes.
        unsafe { access::store_half(pointer, half) };
        true
    }

    /// Writes words at `offset`; whether the frame has room for them.
    #[inline(always)]
    #[must_use]
    pub fn set_words<const N: usize>(&self, offset: usize, words: [u32; N]) -> bool {
        let Some(pointer) = self.pointer(offset, 4 * N) else { return false };
        // SAFETY: `pointer` checked that the frame has all `N` words.
        unsafe { access::store_words(pointer, words) };
        true
    }

    /// Writes all headers of a frame: the `A` words of the Ethernet addresses, and of a tag behind them where it has one,
    /// the ethertype, and `N` words behind it; whether the frame has room for them. One check for all of it, where
    /// `set_words` makes one each.
    #[inline(always)]
    #[must_use]
    pub fn set_headers<const A: usize, const N: usize>(
        &self,
        addresses: [u32; A],
        ethertype: u16,
        words: [u32; N],
    ) -> bool {
        let Some(pointer) = self.pointer(0, 4 * A + 2 + 4 * N) else { return false };
        // SAFETY: `pointer` checked that the frame has all of these bytes.
        unsafe {
            access::store_words(pointer, addresses);
            access::store_half(pointer.add(4 * A), ethertype);
            access::store_words(pointer.add(4 * A + 2), words);
        }
        true
    }

    /// A pointer to `len` bytes at `offset`, where the frame has them.
    #[inline(always)]
    fn pointer(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let [start, end] = self.bounds();
        let start = start + offset;
        (start + len <= end).then_some(start as *mut u8)
    }

    /// Where the bytes that can be reached begin and end.
    #[inline(always)]
    fn bounds(&self) -> [usize; 2] {
        // SAFETY: the context has both, and is readable while the program runs.
        unsafe { access::bounds(self.raw()) }
    }

    #[inline(always)]
    fn raw(&self) -> *mut xdp_md {
        self.context.as_ptr().cast()
    }
}

impl Words for XdpFrame<'_> {
    #[inline(always)]
    fn put<const N: usize>(&self, offset: usize, words: [u32; N]) -> bool {
        self.set_words(offset, words)
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        let [start, end] = self.bounds();
        end - start
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        if !(self.multi_buffer)() {
            return self.len();
        }
        // SAFETY: the helper only reads the context.
        unsafe { bpf_xdp_get_buff_len(self.raw()) as usize }
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        let pointer = self.pointer(offset, 1)?;
        // SAFETY: `pointer` checked that the frame has this byte.
        Some(unsafe { pointer.read() })
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        let pointer = self.pointer(offset, 2)?;
        // SAFETY: `pointer` checked that the frame has these two bytes.
        Some(unsafe { access::load_half(pointer) })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let pointer = self.pointer(offset, 4 * N)?;
        // SAFETY: `pointer` checked that the frame has all `N` words.
        Some(unsafe { access::load_words(pointer) })
    }
}

/// Unaligned loads and stores, each as one instruction.
///
/// `read_unaligned` becomes a load per byte, for LLVM does not know that the verifier lets a program access a *packet*
/// at any alignment. The target feature that tells it so says it of the stack as well, where the verifier refuses it.
#[cfg(target_arch = "bpf")]
mod access {
    use core::arch::asm;

    use super::xdp_md;

    /// Begin and end of the frame. The fields have 32 bits, but what is read of them are pointers, which the compiler
    /// must not know: it would take their lower halves for all of them.
    ///
    /// # Safety
    /// The context must be readable.
    #[inline(always)]
    pub unsafe fn bounds(context: *const xdp_md) -> [usize; 2] {
        let (start, end): (u64, u64);
        // SAFETY: the caller vouches for the context; the instructions read nothing else.
        unsafe {
            asm!("{start} = *(u32 *)({context} + 0)", start = lateout(reg) start, context = in(reg) context,
                options(pure, readonly, nostack));
            asm!("{end} = *(u32 *)({context} + 4)", end = lateout(reg) end, context = in(reg) context,
                options(pure, readonly, nostack));
        }
        [start as usize, end as usize]
    }

    /// The two bytes at `pointer`.
    ///
    /// # Safety
    /// They must lie within the frame, by a check that the verifier can see.
    #[inline(always)]
    pub unsafe fn load_half(pointer: *const u8) -> u16 {
        let half: u64;
        // SAFETY: the caller vouches for the bytes; the instruction reads nothing else.
        unsafe {
            asm!("{half} = *(u16 *)({pointer} + 0)", half = lateout(reg) half, pointer = in(reg) pointer,
                options(pure, readonly, nostack));
        }
        half as u16
    }

    /// `N` words, at most 10, from `pointer` on. Written out: LLVM keeps a loop over as many, and fills its array of
    /// zeros byte by byte.
    ///
    /// # Safety
    /// As [`load_half`].
    #[inline(always)]
    pub unsafe fn load_words<const N: usize>(pointer: *const u8) -> [u32; N] {
        const { assert!(N <= 10) };
        let mut words = [0; N];
        macro_rules! load {
            ($($index:literal)*) => {$(
                if let Some(loaded) = words.get_mut($index) {
                    let word: u32;
                    // SAFETY: the caller vouches for the bytes; the instruction reads nothing else.
                    unsafe {
                        asm!("{word} = *(u32 *)({pointer} + {offset})", word = lateout(wreg) word,
                            pointer = in(reg) pointer, offset = const 4 * $index, options(pure, readonly, nostack));
                    }
                    *loaded = word;
                }
            )*};
        }
        load!(0 1 2 3 4 5 6 7 8 9);
        words
    }

    /// Sets the two bytes at `pointer`.
    ///
    /// # Safety
    /// As [`load_half`].
    #[inline(always)]
    pub unsafe fn store_half(pointer: *mut u8, half: u16) {
        // SAFETY: the caller vouches for the bytes; the instruction writes nothing else.
        unsafe {
            asm!("*(u16 *)({pointer} + 0) = {half}", half = in(reg) u64::from(half), pointer = in(reg) pointer,
                options(nostack));
        }
    }

    /// Sets `N` words from `pointer` on, at most 14: the longest outer header is IPv6, UDP and 8 bytes of GUE.
    ///
    /// # Safety
    /// As [`load_half`].
    #[inline(always)]
    pub unsafe fn store_words<const N: usize>(pointer: *mut u8, words: [u32; N]) {
        const { assert!(N <= 14) };
        macro_rules! store {
            ($($index:literal)*) => {$(
                if let Some(word) = words.get($index) {
                    // SAFETY: the caller vouches for the bytes; the instruction writes nothing else.
                    unsafe {
                        asm!("*(u32 *)({pointer} + {offset}) = {word}", word = in(reg) u64::from(*word),
                            pointer = in(reg) pointer, offset = const 4 * $index, options(nostack));
                    }
                }
            )*};
        }
        store!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
    }
}

/// The same for hosts, where only the compiler's checks are run.
#[cfg(not(target_arch = "bpf"))]
mod access {
    use super::xdp_md;

    #[inline(always)]
    pub unsafe fn bounds(context: *const xdp_md) -> [usize; 2] {
        // SAFETY: the caller vouches for the context.
        let context = unsafe { &*context };
        [context.data as usize, context.data_end as usize]
    }

    #[inline(always)]
    pub unsafe fn load_half(pointer: *const u8) -> u16 {
        // SAFETY: the caller vouches for the bytes.
        unsafe { pointer.cast::<u16>().read_unaligned() }
    }

    #[inline(always)]
    pub unsafe fn load_words<const N: usize>(pointer: *const u8) -> [u32; N] {
        // SAFETY: the caller vouches for the bytes.
        unsafe { pointer.cast::<[u32; N]>().read_unaligned() }
    }

    #[inline(always)]
    pub unsafe fn store_half(pointer: *mut u8, half: u16) {
        // SAFETY: the caller vouches for the bytes.
        unsafe { pointer.cast::<u16>().write_unaligned(half) }
    }

    #[inline(always)]
    pub unsafe fn store_words<const N: usize>(pointer: *mut u8, words: [u32; N]) {
        // SAFETY: the caller vouches for the bytes.
        unsafe { pointer.cast::<[u32; N]>().write_unaligned(words) }
    }
}

/// Ends a program object: the licence that the kernel asks for, and what a panic would do. The verifier refuses an
/// object in which a panic can be reached.
#[macro_export]
macro_rules! program_object {
    () => {
        #[cfg(target_arch = "bpf")]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}
