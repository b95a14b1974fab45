//! What sends the prober's packets to backends: a program of the forwarder's object over the maps in use, on the end that
//! this host has of the prober's veth pair.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use aya::programs::{ProgramError, Xdp};
use aya_obj::generated::XDP_FLAGS_SKB_MODE;

use super::{Dataplane, Error, Mode, generation::Loaded, maps::Probes, sys::XdpLink};

/// The program, loaded over the maps of a generation.
pub struct ProbeProgram(Loaded);

/// The program on an interface, as long as this is kept.
#[derive(Debug)]
pub struct ProbeLink(XdpLink);

impl ProbeProgram {
    /// The program itself.
    ///
    /// # Errors
    ///
    /// Never, as long as the object has it.
    pub fn xdp(&self) -> Result<&Xdp, Error> {
        self.0.as_xdp()
    }
}

impl Dataplane {
    /// Which probes are under way, and how their answers come back: the same maps over all generations.
    pub fn probes(&self) -> Arc<Probes> {
        Arc::clone(self.generation.maps.probes())
    }

    /// Loads what sends the prober's packets on, over the maps in use. [`Self::generation`] tells when they are others.
    ///
    /// # Errors
    ///
    /// The kernel does not take it.
    pub fn load_probe(&self) -> Result<ProbeProgram, Error> {
        self.generation.load_probe(self.state.seed).map(ProbeProgram)
    }

    /// Attaches it to the interface `name`, which has the index `ifindex`. In generic mode, as only that redirects to
    /// interfaces of whatever driver from a veth.
    ///
    /// # Errors
    ///
    /// The kernel does not take it.
    pub fn attach_probe(&self, name: &str, ifindex: u32) -> Result<ProbeLink, Error> {
        let program = self.load_probe()?;
        let link = XdpLink::create(fd(program.xdp()?)?, ifindex, XDP_FLAGS_SKB_MODE);
        link.map(ProbeLink).map_err(|error| Error::Attach {
            name: name.to_owned(),
            mode: Mode::Generic,
            reason: error.to_string(),
        })
    }

    /// Puts the program over the maps in use in place of the one that a link runs.
    ///
    /// # Errors
    ///
    /// The kernel does not take it.
    pub fn renew_probe(&self, ProbeLink(link): &ProbeLink) -> Result<(), Error> {
        let program = self.load_probe()?;
        link.replace(fd(program.xdp()?)?).map_err(|error| Error::Load { reason: error.to_string() })
    }
}

fn fd(xdp: &Xdp) -> Result<BorrowedFd<'_>, Error> {
    let fd = xdp.fd().map_err(|error: ProgramError| Error::load(&error))?;
    Ok(fd.as_fd())
}
