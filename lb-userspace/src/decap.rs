//! Backend side: puts the decapsulation on an interface, takes it off, and says what it does. No daemon: everything is
//! pinned under `<bpffs>/decap-v<ABI>/<interface>/` and stays when the command ends.

use std::{
    fs,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use aya::{
    EbpfLoader,
    maps::{
        Array, HashMap, Map, MapData, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::Xdp,
    util::KernelVersion,
};
use ipnet::IpNet;
use lb_common::{ABI, Address, DECAP_VIP_BITS, DECAP_VIPS, DecapCounters, DecapOutcome, DecapSource};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use serde::{Deserialize, Serialize};

use crate::{
    config::XdpMode,
    dataplane::{
        Attachment, DECAP, Links, Mode, Pinned, ProgramRef, detach_pinned, interface_of, make_directories,
        mount_if_missing, names, pin_name, pinned, remove_tree,
    },
    objects,
};

/// Kernel from which a program may take frames of several buffers.
const FRAGS_SINCE: KernelVersion = KernelVersion::new(5, 18, 0);

/// What to decapsulate, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface that packets of load balancers come in by.
    pub interface: String,
    /// Ranges of outer source addresses to accept: the `encap_source4` and `encap_source6` of the load balancers.
    pub from: Vec<IpNet>,
    /// Outer destination addresses to accept; the interface's own where there are none.
    pub to: Vec<IpAddr>,
    /// Inner destinations to deliver; whatever is local to this host where there are none.
    pub vips: Vec<IpNet>,
    /// Native, generic, or whichever works.
    pub mode: XdpMode,
    /// Where to pin.
    pub bpffs: PathBuf,
}

/// The decapsulation on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The interface.
    pub interface: String,
    /// How it is attached; `None` where it is not, or that cannot be seen from here.
    pub mode: Option<Mode>,
    /// What is wrong with it, and what to do.
    pub problem: Option<String>,
    /// Accepted outer sources.
    pub from: Vec<IpNet>,
    /// Accepted outer destinations.
    pub to: Vec<IpAddr>,
    /// Inner destinations that are delivered; none where that is whatever is local to the host.
    pub vips: Vec<IpNet>,
    /// Packets and bytes (from the outer IP header on) by what became of them.
    pub outcomes: Vec<Outcome>,
}

/// One row of a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the outcome.
    pub outcome: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Attaches the decapsulation. On an interface that has it already, what it accepts is replaced without a gap, and
/// counts begin anew.
///
/// # Errors
///
/// No such interface, nothing to accept, another XDP program in the way, or a kernel that refuses.
pub fn attach(options: &Options) -> anyhow::Result<Attachment> {
    let Options { interface, from, to, vips, mode, bpffs } = options;
    let ifindex = if_nametoindex(interface.as_str())
        .with_context(|| format!("there is no interface {interface} here: see `ip link`"))?;
    let accepted = Accepted {
        sources: ranges(from)?,
        destinations: if to.is_empty() { addresses_of(interface)? } else { to.clone() },
        vips: prefixes(vips)?,
    };
    if vips.is_empty() {
        check_forwarding(interface)?;
    }
    mount_if_missing(bpffs)?;
    let place = Place::new(bpffs, interface);
    let attached = put_in_place(bpffs, &place, &accepted, ifindex, *mode);
    if attached.is_err() && names(&place.links).is_ok_and(|links| links.is_empty()) {
        // Nothing runs, and what is pinned so far is of no use. The error at hand says more than that of cleaning up.
        let _ = remove_tree(&place.root);
    }
    attached
}

/// What the program is to accept, as it compares it.
struct Accepted {
    sources: Vec<DecapSource>,
    destinations: Vec<IpAddr>,
    /// None: whatever is local.
    vips: Vec<Key<Address>>,
}

/// Loads the program with what it accepts, and has the interface run it.
fn put_in_place(
    bpffs: &Path,
    place: &Place,
    accepted: &Accepted,
    ifindex: u32,
    mode: XdpMode,
) -> anyhow::Result<Attachment> {
    let Accepted { sources, destinations, vips } = accepted;
    make_directories(&place.links)?;
    let mut loader = EbpfLoader::new();
    let local = u32::from(vips.is_empty());
    let mut ebpf = loader
        .override_global("LOCAL", &local, true)
        .load(objects::DECAP)
        .context("the decapsulation does not load")?;
    let name = if KernelVersion::current()? >= FRAGS_SINCE { "decap" } else { "decap_linear" };
    let mut accepted: Array<_, DecapSource> = ebpf.map_mut("SOURCES").context("no map SOURCES")?.try_into()?;
    for (index, source) in (0..).zip(sources) {
        accepted.set(index, *source, 0)?;
    }
    let mut accepted: HashMap<_, Address, u32> =
        ebpf.map_mut("DESTINATIONS").context("no map DESTINATIONS")?.try_into()?;
    for destination in destinations {
        accepted.insert(Address::from(*destination), 1, 0).context("too many addresses: at most 256 are accepted")?;
    }
    let mut delivered: LpmTrie<_, Address, u32> = ebpf.map_mut("VIPS").context("no map VIPS")?.try_into()?;
    for vip in vips {
        delivered.insert(vip, 1, 0)?;
    }
    // The new maps lie beside the old ones until the new program runs.
    let staged = &place.staged;
    remove_tree(staged)?;
    make_directories(staged)?;
    // The constants are the program's alone, and names of pins have no dots.
    for (name, map) in ebpf.maps().filter(|(name, _)| !name.starts_with('.')) {
        map.pin(staged.join(name)).with_context(|| format!("cannot pin the map {name}"))?;
    }
    let program: &mut Xdp = ebpf.program_mut(name).context("no program")?.try_into()?;
    program.load().context("the kernel does not take the decapsulation")?;
    let program = ProgramRef { fd: program.fd()?.as_fd(), id: program.info()?.id() };
    let mut links = Links::open(bpffs, place.links.clone())?;
    let attachment = links.attach(&place.interface, ifindex, mode, program)?;
    links.hand_to(program)?;
    remove_tree(&place.maps)?;
    fs::rename(staged, &place.maps).with_context(|| format!("cannot rename {}", staged.display()))?;
    Ok(attachment)
}

/// Takes the decapsulation off an interface, of whatever ABI it is.
///
/// # Errors
///
/// It is not there, or a pin cannot be removed.
pub fn detach(interface: &str, bpffs: &Path) -> anyhow::Result<()> {
    let all = names(bpffs)?.into_iter().filter(|name| name.starts_with(DECAP));
    let roots: Vec<_> =
        all.map(|base| bpffs.join(base).join(pin_name(interface))).filter(|root| root.exists()).collect();
    if roots.is_empty() {
        bail!("no decapsulation on {interface}: `naru decap status` lists where there is one");
    }
    for root in roots {
        // The link first: no packet may meet a program whose maps go away.
        let links = root.join("links");
        for pin in names(&links)? {
            detach_pinned(&links.join(pin))?;
        }
        remove_tree(&root)?;
    }
    Ok(())
}

/// What there is, by interface. Changes nothing.
///
/// # Errors
///
/// A pin cannot be read.
pub fn status(bpffs: &Path) -> anyhow::Result<Vec<Status>> {
    names(&Place::base(bpffs))?.iter().map(|pin| status_of(&Place::new(bpffs, &interface_of(pin)))).collect()
}

fn status_of(place: &Place) -> anyhow::Result<Status> {
    let interface = place.interface.clone();
    let (mode, problem) = match pinned(&place.links)?.into_values().next() {
        Some(Pinned::Running { mode, .. }) => (Some(mode), None),
        Some(Pinned::Elsewhere) => (None, Some("is in another network namespace: ask there".to_owned())),
        Some(Pinned::Gone) => (None, Some(format!("has gone: `naru decap detach {interface}` tidies up"))),
        None => {
            let problem = format!(
                "is incomplete, an attach or a detach broke off: attach again, or tidy up with `naru decap detach {interface}`"
            );
            let (from, to, vips, outcomes) = Default::default();
            return Ok(Status { interface, mode: None, problem: Some(problem), from, to, vips, outcomes });
        }
    };
    let sources: Array<_, DecapSource> = place.map("SOURCES", Map::Array)?;
    let from = sources.iter().collect::<Result<Vec<_>, _>>()?.iter().filter_map(network).collect();
    let destinations: HashMap<_, Address, u32> = place.map("DESTINATIONS", Map::HashMap)?;
    let mut to: Vec<IpAddr> = destinations.keys().map(|key| key.map(IpAddr::from)).collect::<Result<_, _>>()?;
    to.sort();
    let delivered: LpmTrie<_, Address, u32> = place.map("VIPS", Map::LpmTrie)?;
    let vips = delivered.keys().map(|key| key.map(|key| written(&key)));
    let mut vips: Vec<IpNet> = vips.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    vips.sort();
    let counters: PerCpuArray<_, DecapCounters> = place.map("OUTCOMES", Map::PerCpuArray)?;
    let outcome = |outcome: DecapOutcome| {
        let per_cpu = counters.get(&(outcome as u32), 0)?;
        let (packets, bytes) = per_cpu.iter().fold((0, 0), |sum, cpu| (sum.0 + cpu.packets, sum.1 + cpu.bytes));
        anyhow::Ok(Outcome { outcome: outcome.name().to_owned(), packets, bytes })
    };
    Ok(Status {
        interface,
        mode,
        problem,
        from,
        to,
        vips,
        outcomes: DecapOutcome::ALL.into_iter().map(outcome).collect::<Result<_, _>>()?,
    })
}

/// Where the decapsulation of one interface is pinned.
struct Place {
    interface: String,
    root: PathBuf,
    links: PathBuf,
    maps: PathBuf,
    /// Where the maps are until the program runs.
    staged: PathBuf,
}

impl Place {
    fn base(bpffs: &Path) -> PathBuf {
        bpffs.join(format!("{DECAP}{ABI}"))
    }

    fn new(bpffs: &Path, interface: &str) -> Self {
        let root = Self::base(bpffs).join(pin_name(interface));
        let [links, maps, staged] = ["links", "maps", "maps_new"].map(|name| root.join(name));
        Self { interface: interface.to_owned(), links, maps, staged, root }
    }

    /// The pinned map `name` as a map of its kind; from where it was made, if an attach broke off before the maps were
    /// where they belong.
    fn map<T>(&self, name: &str, kind: fn(MapData) -> Map) -> anyhow::Result<T>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        let path = if self.maps.exists() { &self.maps } else { &self.staged }.join(name);
        let data = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(kind(data).try_into()?)
    }
}

/// Ranges as the program compares them.
fn ranges(from: &[IpNet]) -> anyhow::Result<Vec<DecapSource>> {
    if from.is_empty() || from.len() > DecapSource::MAX as usize {
        bail!(
            "name 1 to {} ranges of outer source addresses, as the load balancers' `encap_source4` and \
               `encap_source6` say",
            DecapSource::MAX
        );
    }
    from.iter()
        .map(|range| {
            if range.prefix_len() == 0 {
                bail!(
                    "{range} takes in every address, so that anyone could send encapsulated packets: name the load \
                       balancers' range"
                );
            }
            let mask = match range.netmask() {
                // The prefix of a mapped address counts as well.
                IpAddr::V4(mask) => Address::from(IpAddr::V6(std::net::Ipv6Addr::from_bits(
                    u128::MAX << 32 | u128::from(mask.to_bits()),
                ))),
                mask => mask.into(),
            };
            Ok(DecapSource { network: range.network().into(), mask })
        })
        .collect()
}

/// The VIPs as the program compares them.
fn prefixes(vips: &[IpNet]) -> anyhow::Result<Vec<Key<Address>>> {
    if vips.len() > DECAP_VIPS as usize {
        bail!("{} VIPs are more than the {DECAP_VIPS} that one decapsulation delivers: name prefixes", vips.len());
    }
    let key = |vip: &IpNet| {
        if vip.prefix_len() == 0 {
            bail!("{vip} takes in every address, so that anything would be delivered: name the VIPs");
        }
        let mapped = if vip.addr().is_ipv4() { DECAP_VIP_BITS - 32 } else { 0 };
        Ok(Key::new(u32::from(vip.prefix_len()) + mapped, Address::from(vip.network())))
    };
    vips.iter().map(key).collect()
}

/// A VIP as the operator wrote it; `None` where that cannot be.
fn written(key: &Key<Address>) -> Option<IpNet> {
    let network = IpAddr::from(key.data());
    let mapped = if network.is_ipv4() { DECAP_VIP_BITS - 32 } else { 0 };
    IpNet::new(network, u8::try_from(key.prefix_len().checked_sub(mapped)?).ok()?).ok()
}

/// What is local is asked of the kernel, which of IPv6 answers by whether this interface forwards, where its stack goes by
/// whether the host does. Where the two differ, packets for other hosts would be taken for local ones.
fn check_forwarding(interface: &str) -> anyhow::Result<()> {
    let forwards = |scope: &str| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{scope}/forwarding"));
        value.is_ok_and(|value| value.trim() != "0")
    };
    if forwards("all") && !forwards(interface) {
        bail!(
            "this host forwards IPv6 although {interface} is set not to, and the kernel does not tell then which \
             addresses are local: name the VIPs with --vip, or `sysctl -w net.ipv6.conf.{interface}.forwarding=1`"
        );
    }
    Ok(())
}

/// A range as the operator wrote it; `None` for an unused entry.
fn network(source: &DecapSource) -> Option<IpNet> {
    let DecapSource { network, mask } = *source;
    let ones: u32 = mask.0.iter().map(|word| word.wire().count_ones()).sum();
    let network = IpAddr::from(network);
    let prefix = if network.is_ipv4() { ones.checked_sub(96)? } else { ones };
    (ones != 0).then(|| IpNet::new(network, prefix as u8).ok()).flatten()
}

/// The addresses of an interface that packets from elsewhere can be sent to.
fn addresses_of(interface: &str) -> anyhow::Result<Vec<IpAddr>> {
    let all = getifaddrs().context("cannot list the addresses of this host")?;
    let addresses: Vec<IpAddr> = all
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    if addresses.is_empty() {
        bail!("{interface} has no address: name the outer destination addresses with --to");
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        dataplane::fixtures::{Namespace, Pins, ip, veth},
    };

    #[test]
    fn ranges_survive_the_way_into_the_map_and_take_in_what_they_say() {
        let texts = ["172.16.0.0/16", "fd6e:e::/64", "10.1.2.3/32", "2001:db8::/127"];
        let nets: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let ranges = ranges(&nets).unwrap();
        assert_eq!(ranges.iter().filter_map(network).collect::<Vec<_>>(), nets);
        for (inside, outside, range) in [
            ("172.16.255.1", "172.17.0.0", ranges[0]),
            ("fd6e:e::ffff:1", "fd6e:e:0:1::", ranges[1]),
            ("10.1.2.3", "10.1.2.2", ranges[2]),
            ("2001:db8::1", "::ffff:10.1.2.3", ranges[3]),
        ] {
            assert!(range.contains(inside.parse::<IpAddr>().unwrap().into()), "{inside}");
            assert!(!range.contains(outside.parse::<IpAddr>().unwrap().into()), "{outside}");
        }
        assert_eq!(network(&DecapSource::default()), None);
        assert!(!DecapSource::default().contains("0.0.0.0".parse::<IpAddr>().unwrap().into()));
    }

    /// Decapsulation of everything sent to 10.0.0.1 on an interface of this network namespace.
    fn options(pins: &Pins, interface: &str, mode: XdpMode) -> Options {
        let (from, to) = (vec!["172.16.0.0/16".parse().unwrap()], vec!["10.0.0.1".parse().unwrap()]);
        Options { interface: interface.to_owned(), from, to, vips: Vec::new(), mode, bpffs: pins.0.clone() }
    }

    #[test]
    fn the_status_tells_the_vips_as_they_were_named() {
        let pins = Pins::new();
        veth("lb0", "client");
        let vips: Vec<IpNet> = ["203.0.113.0/24", "203.0.113.10/32", "2001:db8::/32", "2001:db8:f::10/128"]
            .map(|text| text.parse().unwrap())
            .into();
        attach(&Options { vips: vips.clone(), ..options(&pins, "lb0", XdpMode::Auto) }).unwrap();
        let told = || status(&pins.0).unwrap().remove(0).vips;
        assert_eq!(told(), vips);
        attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap();
        assert_eq!(told(), []);
        let all = Options { vips: vec!["::/0".parse().unwrap()], ..options(&pins, "lb0", XdpMode::Auto) };
        let error = attach(&all).unwrap_err().to_string();
        assert!(error.contains("::/0 takes in every address"), "{error}");
        assert_eq!(told(), [], "what ran before runs on");
    }

    /// IPv6 that is forwarded although the interface is set not to would be taken for local.
    #[test]
    fn a_host_of_two_minds_must_name_its_vips() {
        let pins = Pins::new();
        veth("lb0", "client");
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap();
        fs::write("/proc/sys/net/ipv6/conf/lb0/forwarding", "0").unwrap();
        let error = attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap_err().to_string();
        assert!(error.contains("--vip") && error.contains("net.ipv6.conf.lb0.forwarding=1"), "{error}");
        let vips = vec!["2001:db8:f::10/128".parse().unwrap()];
        attach(&Options { vips, ..options(&pins, "lb0", XdpMode::Auto) }).unwrap();
    }

    #[test]
    fn the_status_names_interfaces_as_the_kernel_does_and_survives_what_broke_off() {
        let pins = Pins::new();
        veth("lb0.100", "client");
        attach(&options(&pins, "lb0.100", XdpMode::Generic)).unwrap();
        let of = |interface: &str| status(&pins.0).unwrap().into_iter().find(|status| status.interface == interface);
        let whole = of("lb0.100").unwrap();
        assert_eq!((whole.mode, &whole.problem), (Some(Mode::Generic), &None));
        assert_eq!(whole.to, ["10.0.0.1".parse::<IpAddr>().unwrap()]);

        // Ended between the link and the maps' last place: all is there.
        let place = Place::new(&pins.0, "lb0.100");
        fs::rename(&place.maps, &place.staged).unwrap();
        assert_eq!(of("lb0.100").unwrap(), whole);
        // Ended before the link.
        fs::create_dir_all(Place::new(&pins.0, "client").staged).unwrap();
        let broken = of("client").unwrap();
        assert_eq!((broken.mode, broken.outcomes), (None, vec![]));
        assert!(broken.problem.unwrap().contains("`naru decap detach client`"));
        assert_eq!(of("lb0.100").unwrap(), whole);

        detach("client", &pins.0).unwrap();
        detach("lb0.100", &pins.0).unwrap();
        assert_eq!(status(&pins.0).unwrap(), []);
    }

    #[test]
    fn an_attach_that_fails_leaves_nothing_or_what_was_there() {
        let pins = Pins::new();
        veth("lb0", "client");
        ip(&["link", "set", "lo", "up"]);
        // The loopback has no native XDP.
        assert!(attach(&options(&pins, "lo", XdpMode::Native)).is_err());
        assert!(names(&Place::base(&pins.0)).unwrap().is_empty());

        attach(&options(&pins, "lb0", XdpMode::Auto)).unwrap();
        let mut others = options(&pins, "lb0", XdpMode::Auto);
        others.to = (0..=255).flat_map(|a| [1, 2].map(|b| IpAddr::from([10, 0, a, b]))).collect();
        assert!(attach(&others).is_err(), "more addresses than there is room for");
        let status = &status(&pins.0).unwrap()[0];
        assert_eq!((status.mode, status.to.len()), (Some(Mode::Native), 1));
    }

    #[test]
    fn the_status_asked_for_in_another_network_namespace_detaches_nothing() {
        let pins = Pins::new();
        veth("lb0", "client");
        attach(&options(&pins, "lb0", XdpMode::Native)).unwrap();
        let home = Namespace::current();
        let problem = || status(&pins.0).unwrap().remove(0).problem.unwrap();
        Namespace::unshare();
        assert_eq!(problem(), "is in another network namespace: ask there");
        veth("lb0", "client");
        assert_eq!(problem(), "is in another network namespace: ask there");
        let error = format!("{:#}", attach(&options(&pins, "lb0", XdpMode::Native)).unwrap_err());
        assert!(error.contains("`naru decap detach lb0`"), "{error}");
        home.enter();
        assert_eq!(status(&pins.0).unwrap()[0].mode, Some(Mode::Native));

        ip(&["link", "del", "lb0"]);
        assert!(problem().starts_with("has gone"));
    }

    #[test]
    fn a_decapsulation_that_is_in_the_way_is_named_and_detached_whatever_its_version() {
        let pins = Pins::new();
        let (ifindex, _) = veth("lb0", "client");
        attach(&options(&pins, "lb0", XdpMode::Native)).unwrap();
        fs::rename(Place::base(&pins.0), pins.0.join(format!("{DECAP}{}", ABI + 1))).unwrap();
        let mut dataplane = pins.open(&Config::default());
        for error in [
            format!("{:#}", attach(&options(&pins, "lb0", XdpMode::Native)).unwrap_err()),
            dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap_err().to_string(),
        ] {
            assert!(error.ends_with("; take it off with `naru decap detach lb0`, then try again"), "{error}");
        }
        detach("lb0", &pins.0).unwrap();
        dataplane.attach("lb0", ifindex, XdpMode::Auto).unwrap();
        let error = format!("{:#}", attach(&options(&pins, "lb0", XdpMode::Native)).unwrap_err());
        assert!(error.ends_with("; take it off with `naru interface detach lb0`, then try again"), "{error}");
        assert!(detach("lb0", &pins.0).is_err());
    }

    #[test]
    fn a_range_of_everything_is_refused() {
        for text in ["0.0.0.0/0", "::/0"] {
            assert!(ranges(&[text.parse().unwrap()]).is_err());
        }
        assert!(ranges(&[]).is_err());
    }
}
