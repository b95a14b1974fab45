//! Where the kernel that runs keeps the members of its structures, by its own type information (BTF,
//! Documentation/bpf/btf.rst). aya relocates programs by it, but Rust's do not say what they would need.

use std::fs;

use anyhow::{Context as _, anyhow};
use btfparse::{Error, ErrorKind, Offset, Readable, TypeInformation, TypeVariant};

/// Where the kernel shows it.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// The types of a kernel.
pub struct Btf(TypeInformation);

impl Btf {
    /// Of the kernel that runs. All of its types at once: some 60 MB, until this is dropped.
    ///
    /// # Errors
    ///
    /// The kernel was built without, or it is not in the form that is known.
    pub fn of_kernel() -> anyhow::Result<Self> {
        fs::read(KERNEL).map_err(Into::into).and_then(Self::parse).context(KERNEL)
    }

    /// Offset in bytes of a member of a structure, or of one in it: `ns.inum`.
    ///
    /// # Errors
    ///
    /// There is no such structure or member.
    pub fn offset(&self, structure: &str, member: &str) -> anyhow::Result<u32> {
        let is_it = |of: &TypeVariant| matches!(of, TypeVariant::Struct(it) if it.name().as_deref() == Some(structure));
        let found = self.0.get().iter().find(|(_, of)| is_it(of));
        match found.map(|(id, _)| self.0.offset_of(*id, member)) {
            Some(Ok((_, Offset::ByteOffset(offset)))) => Ok(offset),
            _ => Err(anyhow!("the kernel has no {structure}.{member}")),
        }
    }

    fn parse(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let types = TypeInformation::new(&Bytes(bytes));
        Ok(Self(types.map_err(|error| anyhow!("is not in the form that is known: {error:?}"))?))
    }
}

struct Bytes(Vec<u8>);

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let range = usize::try_from(offset).ok().and_then(|offset| Some(offset..offset.checked_add(buffer.len())?));
        let found = range.and_then(|range| self.0.get(range));
        buffer.copy_from_slice(found.ok_or_else(|| Error::new(ErrorKind::EOF, "it ends too early"))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_says_where_its_members_are() {
        let btf = Btf::of_kernel().unwrap();
        // Part of what programs of user space rely on (include/uapi/linux/if_link.h, bpf.h).
        assert_eq!(btf.offset("ethhdr", "h_proto").unwrap(), 12);
        assert_eq!(btf.offset("xdp_md", "ingress_ifindex").unwrap(), 12);
        assert_eq!(btf.offset("iphdr", "daddr").unwrap(), 16, "in a union without a name");
        assert!(btf.offset("net_device", "ifindex").unwrap() > 0);
        let inode = btf.offset("net", "ns.inum").unwrap();
        assert_eq!(inode, btf.offset("net", "ns").unwrap() + btf.offset("ns_common", "inum").unwrap());
        let error = btf.offset("net_device", "no_such_thing").unwrap_err().to_string();
        assert_eq!(error, "the kernel has no net_device.no_such_thing");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = fs::read(KERNEL).unwrap();
        for len in [0, 1, 10, 1000, whole.len() / 2] {
            assert!(Btf::parse(whole[..len].to_vec()).is_err(), "{len} bytes");
        }
    }
}
