//! Which kernels the data plane runs on.

/// The oldest kernel that the data plane runs on, major and minor version: the first with long-term support that has
/// compare-and-swap for programs (5.12), bpf_link for XDP and memory-mapped arrays.
pub const OLDEST: (u32, u32) = if cfg!(target_arch = "aarch64") { (5, 18) } else { (5, 15) };

/// Since this kernel, XDP programs take frames of more than one buffer (`xdp.frags`).
pub const FRAGS: (u32, u32) = (5, 18);

/// What this kernel calls itself, such as `6.1.0-18-amd64`.
pub fn release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor version of a release; `None` where it tells none.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What is to be told where a kernel of this release is older than [`OLDEST`].
pub fn too_old(release: &str) -> Option<String> {
    let (major, minor) = OLDEST;
    let is_old = version(release).is_some_and(|version| version < OLDEST);
    is_old.then(|| format!("kernel {release} is too old: naru needs {major}.{minor} or newer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        assert_eq!(version("linux"), None);
        assert!(version("5.18.0").unwrap() >= FRAGS);
        let old = too_old("5.14.16-amd64").unwrap();
        assert!(old.starts_with("kernel 5.14.16-amd64 is too old: naru needs 5."), "{old}");
        assert_eq!([too_old("6.1.0-18-amd64"), too_old("linux")], [None, None]);
    }
}
