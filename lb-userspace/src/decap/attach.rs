//! Puts the decapsulation on an interface, and takes it off.

use std::{
    fs,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use aya::{
    EbpfLoader,
    maps::{Array, HashMap, lpm_trie::LpmTrie},
    programs::Xdp,
    util::KernelVersion,
};
use ipnet::IpNet;
use lb_common::{Address, DecapSource};
use nix::net::if_::if_nametoindex;

use super::{
    accepted::{Accepted, addresses_of, prefixes, ranges},
    place::Place,
};
use crate::{
    dataplane::{
        Attachment, DECAP, Links, ProgramRef, detach_pinned, make_directories, mount_if_missing, names, pin_name,
        remove_tree,
    },
    model::XdpMode,
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

/// What is local is asked of the kernel, which of IPv6 answers by whether this interface forwards, where its stack goes
/// by whether the host does. Where the two differ, packets for other hosts would be taken for local ones.
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
