//! A lab with everything in place: servers on every backend, decapsulation where needed, a running daemon.

use std::{
    net::{IpAddr, SocketAddr},
    ops::{Deref, DerefMut},
};

use crate::{
    lab::{Builder, Host, Lab},
    naru::{Naru, attach_decap},
    server::Server,
    vip_text::VipText,
};

/// The port of HTTP on every VIP of a site.
pub const HTTP: u16 = 80;
/// The port of the UDP echo on every VIP of a site.
pub const ECHO: u16 = 9;

/// A VIP of a site, with `tcp/80` and `udp/9`.
#[derive(Clone, Copy, Debug)]
pub struct Vip {
    /// Its name.
    pub name: &'static str,
    /// Its address.
    pub address: &'static str,
    /// `l2` or `ipip`.
    pub forward: &'static str,
    /// The family of the backends' addresses.
    pub backends: Family,
    /// Weights of `b1`, `b2`, …; backends beyond are not in the config.
    pub weights: &'static [u32],
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Vip {
    /// `ipip`, 4in4, three backends of equal weight.
    pub const IPIP: Self =
        Self { name: "web", address: "203.0.113.10", forward: "ipip", backends: Family::V4, weights: &[100; 3] };
    /// `l2`, IPv4, three backends of equal weight.
    pub const L2: Self =
        Self { name: "direct", address: "203.0.113.20", forward: "l2", backends: Family::V4, weights: &[100; 3] };

    /// Where it serves HTTP.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), HTTP)
    }

    /// Where it echoes UDP.
    pub fn echo(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), ECHO)
    }

    /// Its address.
    ///
    /// # Panics
    ///
    /// When the test gave something else.
    pub fn ip(&self) -> IpAddr {
        self.address.parse().expect("a VIP has an IP address")
    }

    /// The address of `backend` in the config.
    pub fn address_of(&self, backend: &Host) -> IpAddr {
        match self.backends {
            Family::V4 => backend.ipv4().into(),
            Family::V6 => backend.ipv6().into(),
        }
    }

    /// Its part of the config.
    fn config(&self, lab: &Lab) -> String {
        let Self { name, address, forward, weights, .. } = self;
        let ports = [format!("tcp/{HTTP}"), format!("udp/{ECHO}")];
        let backends = lab.backends().iter().zip(*weights);
        let vip = backends.fold(VipText::new(name, address, ports, forward), |vip, (backend, weight)| {
            vip.backend_with(self.address_of(backend), &format!("weight = {weight}")).comment(backend.name())
        });
        vip.to_string()
    }
}

/// A lab with servers and a daemon. It is also its daemon, which most tests talk to.
pub struct Site {
    naru: Naru,
    /// The servers, in the order of the backends.
    pub servers: Vec<Server>,
    /// The lab.
    pub lab: Lab,
}

impl Site {
    /// Builds the lab with `vips`, starts servers on all backends and the daemon, and waits until it can forward.
    ///
    /// # Errors
    ///
    /// When any of that fails.
    pub fn start(lab: Builder, vips: &[Vip]) -> anyhow::Result<Self> {
        Self::start_with(lab, vips, |_| {})
    }

    /// The same, with a daemon that `prepare` may do something about before it is started.
    ///
    /// # Errors
    ///
    /// As with [`Site::start`].
    pub fn start_with(lab: Builder, vips: &[Vip], prepare: impl FnOnce(&mut Naru)) -> anyhow::Result<Self> {
        let [http, echo] = [Vip::http, Vip::echo].map(|of| vips.iter().map(of).collect::<Vec<_>>());
        // On the backend's own addresses too, for probes.
        let own =
            |backend: &Host| [IpAddr::from(backend.ipv4()), backend.ipv6().into()].map(|ip| SocketAddr::new(ip, HTTP));
        let serve = |lab: &Lab, backend: &Host| {
            Server::start(backend, lab.dir(), &[http.as_slice(), &own(backend)].concat(), &echo)
        };
        Self::start_by(lab, vips, serve, prepare)
    }

    /// The same, with servers that `serve` starts, one for each backend.
    ///
    /// # Errors
    ///
    /// As with [`Site::start`].
    pub fn start_by(
        lab: Builder,
        vips: &[Vip],
        serve: impl Fn(&Lab, &Host) -> anyhow::Result<Server>,
        prepare: impl FnOnce(&mut Naru),
    ) -> anyhow::Result<Self> {
        let lab = lab.vips(vips.iter().map(Vip::ip)).build()?;
        let servers = lab.backends().iter().map(|backend| serve(&lab, backend));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        if vips.iter().any(|vip| vip.forward == "ipip") {
            for backend in lab.backends() {
                attach_decap(&lab, backend)?;
            }
        }
        let config: String = vips.iter().map(|vip| vip.config(&lab)).collect();
        let mut naru = Naru::prepare(&lab, &Naru::node(&lab, &config))?;
        prepare(&mut naru);
        naru.restart()?;
        naru.wait_until_ready()?;
        Ok(Self { naru, servers, lab })
    }
}

impl Deref for Site {
    type Target = Naru;

    fn deref(&self) -> &Naru {
        &self.naru
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Naru {
        &mut self.naru
    }
}
