//! The XDP program that passes every packet, on ports that must receive what an XDP program sends.

use std::{fs, path::Path};

use anyhow::Context as _;
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode, links::FdLink, xdp::XdpLink},
};
use lb_userspace::objects;

use super::Host;

/// The program on one interface, until this is dropped or pinned.
pub struct Pass {
    interface: String,
    link: XdpLink,
}

impl Pass {
    /// Attaches the program to `interface` of `host`, in the driver.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn attach(host: &Host, interface: &str) -> anyhow::Result<Self> {
        let link = host.run(|| {
            let mut ebpf = Ebpf::load(objects::LAB).context("cannot load the lab's programs")?;
            let program: &mut Xdp =
                ebpf.program_mut("pass").context("no program `pass` in the lab's object")?.try_into()?;
            program.load()?;
            let id = program.attach(interface, XdpMode::Driver)?;
            anyhow::Ok(program.take_link(id)?)
        });
        let link = link.with_context(|| format!("cannot attach XDP to {interface} of {}", host.name()))?;
        Ok(Self { interface: interface.to_owned(), link })
    }

    /// Puts a program in its place that is loaded already: every frame meets the one or the other.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it; then neither is attached any more.
    pub fn replaced_by(self, program: &mut Xdp) -> anyhow::Result<Self> {
        let Self { interface, link } = self;
        let id = program.attach_to_link(link).with_context(|| format!("cannot replace the program of {interface}"))?;
        Ok(Self { interface, link: program.take_link(id)? })
    }

    /// The interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Keeps the program attached beyond this process, by a pin in `dir`.
    ///
    /// # Errors
    ///
    /// When `dir` is not in a bpf file system.
    pub fn pin(self, dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("pass-{}", self.interface));
        let link = FdLink::try_from(self.link).context("this kernel attaches XDP without a link that can be pinned")?;
        link.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(())
    }
}
