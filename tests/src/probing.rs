//! Probes over the path of clients, from the load balancer of a site. The site's daemon has stopped, and whoever has this
//! has its data plane, which goes on forwarding.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use lb_common::NextHop;
use lb_userspace::{
    dataplane::Dataplane,
    model::Config,
    privileges,
    prober::{self, Lease, Probe, Prober, Way, source_of},
    seed::HashSeed,
};
use patience::Namespace;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use crate::{netns, site::Site, vip_text::probed};

/// A prober, and the data plane that it probes by.
pub struct Probing {
    prober: Prober,
    dataplane: Dataplane,
    config: Config,
    /// The load balancer.
    home: Namespace,
}

/// A connection of a probe.
pub struct Connection {
    /// The connection.
    pub stream: TcpStream,
    /// Must outlive it.
    _lease: Lease,
}

impl Probing {
    /// Stops the daemon of the site, and begins to probe from where it was.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn start(site: &mut Site) -> anyhow::Result<Self> {
        site.stop()?;
        site.lab.balancer().run(|| Self::open(site.config_path()))
    }

    /// Begins to probe from the network namespace of the calling thread, by the data plane of a config that no daemon has.
    ///
    /// # Errors
    ///
    /// When the data plane or the prober cannot be had.
    pub fn open(config: &Path) -> anyhow::Result<Self> {
        let mut config = Config::parse(&probed(&fs::read_to_string(config)?), config)?;
        *config.local().hash_seed = HashSeed::load(config.node.hash_seed_file.as_deref())?;
        let mut dataplane = Dataplane::open(&config.node.bpffs, &config)?;
        dataplane.apply(&config)?;
        let prober = begin(&dataplane)?;
        Ok(Self { prober, dataplane, config, home: Namespace::current() })
    }

    /// Begins anew, as another daemon would that finds what this one left.
    ///
    /// # Errors
    ///
    /// When the next prober cannot be had.
    pub fn restart(self) -> anyhow::Result<Self> {
        let Self { prober, dataplane, config, home } = self;
        prober.end();
        drop(prober);
        let prober = home.run(|| begin(&dataplane))?;
        Ok(Self { prober, dataplane, config, home })
    }

    /// From now on frames to all backends have the tag of this VLAN, as where the routes to them lead over a VLAN
    /// interface.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an interface.
    pub fn tag(&mut self, id: u16) -> anyhow::Result<()> {
        let tagged = |next_hop| NextHop { vlan: id.into(), ..next_hop };
        let backends = self.dataplane.backends();
        let ways = backends.into_iter().map(|backend| (backend.target, backend.next_hop.map(tagged)));
        self.dataplane.set_next_hops(ways)?;
        Ok(())
    }

    /// The data plane.
    pub fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    /// How many packets were dropped for this reason.
    ///
    /// # Errors
    ///
    /// When counters cannot be read.
    pub fn drops(&self, reason: lb_common::DropReason) -> anyhow::Result<u64> {
        let drops = self.dataplane.counters()?.drops;
        Ok(drops.by_reason().find(|(other, _)| *other == reason).map_or(0, |(_, count)| count))
    }

    /// The way of a probe of a VIP's backend with this address.
    ///
    /// # Errors
    ///
    /// When there is no such backend, or no way to it.
    pub fn way(&self, vip: &str, backend: IpAddr) -> anyhow::Result<Way> {
        let backends = self.dataplane.backends();
        let found = backends.iter().find(|other| other.vip == vip && other.target.address == backend);
        let found = found.with_context(|| format!("{vip} has no backend {backend}"))?;
        let vip = self.config.vip(vip).context("it is not in the config")?.address;
        let next_hop = found.next_hop.context("its next hop is not known")?;
        let source =
            self.home.run(|| source_of(vip, &found.target, || Some(next_hop.ifindex), |address| address == vip));
        let source = source.context("there is no address to probe from")?;
        Ok(Way { vip, backend: found.id, source, mtu: next_hop.mtu - found.forward.overhead() })
    }

    /// A connection to a port of the VIP at the backend.
    ///
    /// # Errors
    ///
    /// As the kernel says; `TimedOut` after `limit`.
    pub async fn connect(&self, way: Way, port: u16, limit: Duration) -> io::Result<Connection> {
        let Probe { socket, lease } = self.prober.tcp(way).map_err(io::Error::other)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        let stream = timeout(limit, socket.connect(SocketAddr::new(way.vip, port))).await??;
        Ok(Connection { stream, _lease: lease })
    }

    /// What the backend answers to a request by HTTP, the header left out.
    ///
    /// # Errors
    ///
    /// When it does not within `limit`.
    pub fn http(&self, way: Way, port: u16, request: &[u8], limit: Duration) -> anyhow::Result<Vec<u8>> {
        netns::runtime().block_on(async {
            let mut connection = self.connect(way, port, limit).await?;
            let mut answer = Vec::new();
            let talk = async {
                connection.stream.write_all(request).await?;
                connection.stream.read_to_end(&mut answer).await
            };
            timeout(limit, talk).await.context("no answer")??;
            let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { bail!("no header") };
            Ok(answer.split_off(end + 4))
        })
    }

    /// The name of the backend that answers to a request by HTTP.
    ///
    /// # Errors
    ///
    /// As [`Self::http`].
    pub fn name(&self, way: Way, port: u16, limit: Duration) -> anyhow::Result<String> {
        let answer = self.http(way, port, b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n", limit)?;
        Ok(String::from_utf8(answer)?.trim().to_owned())
    }

    /// What the backend answers to a datagram.
    ///
    /// # Errors
    ///
    /// When it does not within `limit`.
    pub fn datagram(&self, way: Way, port: u16, question: &[u8], limit: Duration) -> anyhow::Result<Vec<u8>> {
        netns::runtime().block_on(async {
            let Probe { socket, lease: _lease } = self.prober.udp(way)?;
            let socket = UdpSocket::from_std(socket.into())?;
            socket.connect(SocketAddr::new(way.vip, port)).await?;
            socket.send(question).await?;
            let mut answer = vec![0; 65_536];
            let len = timeout(limit, socket.recv(&mut answer)).await.context("no answer")??;
            answer.truncate(len);
            Ok(answer)
        })
    }
}

/// A prober of a data plane in the network namespace of the calling thread.
fn begin(dataplane: &Dataplane) -> anyhow::Result<Prober> {
    let namespace = Arc::new(prober::Namespace::make()?);
    // What the daemon keeps is enough for all that follows. On a thread of its own, which alone has no more.
    let start = || Ok(Prober::start(namespace, dataplane)?);
    let reduced = || privileges::reduce().map_err(Into::into).and_then(|()| start());
    thread::scope(|scope| scope.spawn(reduced).join()).expect("it does not panic")
}
