//! Reads the kernel's own type information (BTF, Documentation/bpf/btf.rst) for one thing: at which offset a structure
//! of the kernel that runs has a member. aya relocates programs by it, but Rust's do not say what they would need.

use std::{fs, io};

/// Where the kernel shows it.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;

// Kinds that matter here.
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The types of a kernel.
pub struct Btf {
    data: Vec<u8>,
    /// Where the names begin.
    names: usize,
    /// Where each type is described, by its number less 1.
    types: Vec<usize>,
}

impl Btf {
    /// Of the kernel that runs.
    ///
    /// # Errors
    ///
    /// The kernel was built without, or it is not in the form that is known.
    pub fn of_kernel() -> io::Result<Self> {
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{KERNEL}: {error}"));
        fs::read(KERNEL).and_then(Self::parse).map_err(failed)
    }

    /// Offset in bytes of a member of a structure, or of one in it: `["ns", "inum"]`.
    ///
    /// # Errors
    ///
    /// There is no such structure or member.
    pub fn offset(&self, structure: &str, path: &[&str]) -> io::Result<u32> {
        let is_it = |at: &usize| self.kind(*at) == Some(STRUCT) && self.name(*at) == Some(structure);
        let found = self.types.iter().copied().find(is_it).and_then(|mut at| {
            let mut offset = 0;
            for (index, member) in path.iter().enumerate() {
                let (member_type, bits) = self.member(at, member)?;
                offset += bits / 8;
                if index + 1 < path.len() {
                    at = *self.types.get((member_type as usize).checked_sub(1)?)?;
                }
            }
            Some(offset)
        });
        let missing = || io::Error::other(format!("the kernel has no {structure}.{}", path.join(".")));
        found.ok_or_else(missing)
    }

    fn parse(data: Vec<u8>) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "not in the form that is known");
        let btf = Self { data, names: 0, types: Vec::new() };
        let word = |at| btf.word(at).map(|word| word as usize).ok_or_else(broken);
        if btf.data.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(broken());
        }
        let header_len = word(4)?;
        let (mut at, end, names) = (header_len + word(8)?, header_len + word(8)? + word(12)?, header_len + word(16)?);
        let mut types = Vec::new();
        while at < end {
            types.push(at);
            let info = btf.word(at + 4).ok_or_else(broken)?;
            at += TYPE_LEN + rest_len(info).ok_or_else(broken)?;
        }
        Ok(Self { names, types, ..btf })
    }

    /// Type and offset in bits of a member, also of one in a part without a name.
    fn member(&self, at: usize, name: &str) -> Option<(u32, u32)> {
        let info = self.word(at + 4)?;
        let has_sizes = info >> 31 != 0;
        let members = (0..(info & 0xffff) as usize).map(|index| at + TYPE_LEN + MEMBER_LEN * index);
        for member in members {
            let (member_type, offset) = (self.word(member + 4)?, self.word(member + 8)?);
            let offset = if has_sizes { offset & 0xff_ffff } else { offset };
            if self.name(member) == Some(name) {
                return Some((member_type, offset));
            }
            let part = self.types.get((member_type as usize).wrapping_sub(1)).copied();
            let part = part.filter(|part| self.name(member) == Some("") && matches!(self.kind(*part), Some(STRUCT | UNION)));
            if let Some((found, within)) = part.and_then(|part| self.member(part, name)) {
                return Some((found, offset + within));
            }
        }
        None
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(self.word(at + 4)? >> 24 & 0x1f)
    }

    /// The name of a type or a member.
    fn name(&self, at: usize) -> Option<&str> {
        let name = self.data.get(self.names + self.word(at)? as usize..)?;
        str::from_utf8(name.split(|byte| *byte == 0).next()?).ok()
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.data.get(at..)?.first_chunk()?))
    }
}

/// Bytes that follow the common part of a type.
fn rest_len(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Pointer, forward, typedef, three qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Array.
        3 => 12,
        // Structure, union, section, enumeration of 64 bits.
        STRUCT | UNION | 15 | 19 => MEMBER_LEN * count,
        // Enumeration, function prototype.
        6 | 13 => 8 * count,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_says_where_its_members_are() {
        let btf = Btf::of_kernel().unwrap();
        // Part of what programs of user space rely on (include/uapi/linux/if_link.h, bpf.h).
        assert_eq!(btf.offset("ethhdr", &["h_proto"]).unwrap(), 12);
        assert_eq!(btf.offset("xdp_md", &["ingress_ifindex"]).unwrap(), 12);
        assert_eq!(btf.offset("iphdr", &["daddr"]).unwrap(), 16, "in a union without a name");
        assert!(btf.offset("net_device", &["ifindex"]).unwrap() > 0);
        let inode = btf.offset("net", &["ns", "inum"]).unwrap();
        assert_eq!(inode, btf.offset("net", &["ns"]).unwrap() + btf.offset("ns_common", &["inum"]).unwrap());
        let error = btf.offset("net_device", &["no_such_thing"]).unwrap_err().to_string();
        assert_eq!(error, "the kernel has no net_device.no_such_thing");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = fs::read(KERNEL).unwrap();
        for len in [0, 1, 10, 24, 1000] {
            assert!(Btf::parse(whole[..len].to_vec()).is_err(), "{len} bytes");
        }
    }
}
