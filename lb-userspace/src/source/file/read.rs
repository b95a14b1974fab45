//! From the TOML tree to drafts: every value on its own is checked here, and keeps its place in the text.

use std::{collections::HashMap, net::IpAddr, ops::Range, path::PathBuf};

use lb_common::{BackendState, Slot};
use toml::{Spanned, de::DeTable};

use super::{
    error::Problems,
    health::{self, OfVip},
    tree::{self, Section, Value},
};
use crate::model::{
    Backend, ForwardMode, Given, Health, IcmpRate, KeyValue, Mac, Node, Port, Readers, WayMtu, Word,
    address::{self, Role},
    keys::{self, Key, VisitMut},
    prime,
};

/// A config whose values are right one by one, with `None` for those that are not.
pub(super) struct Draft {
    pub(super) node: Node,
    /// Whether `[node]` has the key, be its value right or not.
    pub(super) has_encap_source6: bool,
    pub(super) vips: Vec<VipDraft>,
}

/// One `[[vip]]`.
pub(super) struct VipDraft {
    /// Its header.
    pub(super) header: Range<usize>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) address: Option<Spanned<IpAddr>>,
    /// Those that could be read.
    pub(super) ports: Vec<Spanned<Port>>,
    pub(super) forward: Option<Spanned<ForwardMode>>,
    /// Those that could be read of the keys that have a default, and where they stand.
    pub(super) given: Given,
    pub(super) places: HashMap<&'static str, Range<usize>>,
    /// `None` within: the text says that there are to be no probes.
    pub(super) health: Option<Spanned<Option<Health>>>,
    /// Those that could be read.
    pub(super) backends: Vec<BackendDraft>,
    /// Whether `backends` are all that there are.
    pub(super) backends_complete: bool,
}

/// One of a VIP's `backends`.
pub(super) struct BackendDraft {
    pub(super) address: Spanned<IpAddr>,
    pub(super) weight: Spanned<u32>,
    pub(super) state: BackendState,
    pub(super) mac: Option<Spanned<Mac>>,
    pub(super) mtu: Option<Spanned<WayMtu>>,
    pub(super) tier: Option<Spanned<u8>>,
    /// As of the VIP, with what that says.
    pub(super) health: Option<Spanned<Option<Health>>>,
}

/// Reads the whole tree.
pub(super) fn draft(root: &DeTable<'_>, problems: &mut Problems) -> Draft {
    let section = Section::open("at the top level", 0..0, root, &[keys::TOP], problems);
    let table = section.optional("node").and_then(|value| value.get_ref().as_table());
    let has_encap_source6 = table.is_some_and(|table| table.keys().any(|key| key.get_ref() == "encap_source6"));
    let node = section.optional("node").and_then(|value| node(value, problems));
    let vips = section.optional("vip").and_then(|value| vips(value, problems));
    let no_node = || Node { names_interfaces: false, ..Node::default() };
    Draft { node: node.unwrap_or_else(no_node), has_encap_source6, vips: vips.unwrap_or_default() }
}

// Upper bounds that keep the maps below the sizes at which the kernel refuses them: 2^20 VIPs, 8 GiB of slots, 2^24
// flows; and as many backends as a slot can tell apart.
const MAX_VIPS: u32 = 1 << 20;
const MAX_BACKENDS: u32 = Slot::MAX_ID;
const MAX_SLOTS: u32 = 1 << 30;
const MAX_FLOWS: u32 = 1 << 24;

/// Fewest flows to remember: fewer are no room to speak of for what a change puts at risk.
const MIN_FLOWS: u32 = 1 << 10;

/// Longest path of a unix socket in bytes: `sun_path` less its final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Reads `[node]`.
pub(super) fn node(value: &Value<'_>, problems: &mut Problems) -> Option<Node> {
    let table = tree::table("`node`", value, "a table: `[node]`", problems)?;
    let section = Section::open("in [node]", value.span(), table, &[keys::NODE], problems);
    let mut node = Node { names_interfaces: section.optional("interfaces").is_some(), ..Node::default() };
    for key in keys::NODE {
        section.optional(key.name).and_then(|value| node_value(&mut node, key.name, value, problems));
    }
    Some(node)
}

/// Puts the value of one of the keys of `[node]` into its place.
fn node_value(node: &mut Node, key: &str, value: &Value<'_>, problems: &mut Problems) -> Option<()> {
    let what = &format!("`{key}`");
    match key {
        "interfaces" => node.interfaces = names(what, value, ("an", "interface"), address::interface, problems)?,
        "xdp_mode" => node.xdp_mode = tree::parsed(what, value, problems)?,
        "metrics" => node.metrics = Some(with(what, value, address::listener, problems)?),
        "metrics_backends" => node.metrics_backends = tree::boolean(what, value, problems)?,
        "readers" => node.readers = readers(what, value, problems)?,
        "socket" => node.socket = path(what, value, MAX_SOCKET_PATH, problems)?,
        "bpffs" => node.bpffs = path(what, value, usize::MAX, problems)?,
        "state" => node.state = path(what, value, usize::MAX, problems)?,
        "max_removed" => node.max_removed = tree::parsed(what, value, problems)?,
        "encap_source4" => node.encap_source4 = with(what, value, address::source4, problems)?,
        "encap_source6" => node.encap_source6 = Some(with(what, value, address::source6, problems)?),
        "max_vips" => node.max_vips = tree::number(what, value, 1, MAX_VIPS, problems)?,
        "max_backends" => node.max_backends = tree::number(what, value, 1, MAX_BACKENDS, problems)?,
        "max_slots" => node.max_slots = tree::number(what, value, prime::SMALLEST, MAX_SLOTS, problems)?,
        "max_flows" => node.max_flows = Some(tree::number(what, value, MIN_FLOWS, MAX_FLOWS, problems)?),
        "vrf" => node.vrf = Some(tree::parsed(what, value, problems)?),
        "mark" => node.mark = Some(tree::number(what, value, 0, u32::MAX, problems)?),
        "hash_seed_file" => node.hash_seed_file = Some(path(what, value, usize::MAX, problems)?),
        "icmp_rate" => node.icmp_rate = IcmpRate::new(tree::number(what, value, 0, IcmpRate::MAX, problems)?)?,
        "log_packets" => node.log_packets = tree::boolean(what, value, problems)?,
        _ => unreachable!("{key} is not among the keys of [node]"),
    }
    Some(())
}

/// A list of different names, each of which `check` allows; each is `a` such thing.
fn names(
    what: &str,
    value: &Value<'_>,
    (a, thing): (&str, &str),
    check: fn(&str) -> Result<(), String>,
    problems: &mut Problems,
) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for element in tree::array(what, value, problems)? {
        let Some(name) = tree::text(&format!("{a} {thing}"), element, problems) else { continue };
        if let Err(message) = check(name) {
            problems.add(element.span(), message);
        } else if names.iter().any(|known| known == name) {
            problems.add(element.span(), format!("{thing} `{name}` is listed twice; remove one of the two"));
        } else {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

fn readers(what: &str, value: &Value<'_>, problems: &mut Problems) -> Option<Readers> {
    if let Some(word) = value.get_ref().as_str() {
        if word == "all" {
            return Some(Readers::All);
        }
        let word = word.escape_debug();
        let message = format!("{what} is `{word}`; write `\"all\"`, or a list of groups: `[\"{word}\"]`");
        problems.add(value.span(), message);
        return None;
    }
    names(what, value, ("a", "group"), address::group, problems).map(Readers::Groups)
}

fn path(what: &str, value: &Value<'_>, max: usize, problems: &mut Problems) -> Option<PathBuf> {
    let path = tree::path(what, value, problems)?;
    let len = path.as_os_str().len();
    if len > max {
        problems.add(value.span(), format!("{what} has {len} bytes; a unix socket's path has at most {max}"));
    }
    Some(path)
}

fn vips(value: &Value<'_>, problems: &mut Problems) -> Option<Vec<VipDraft>> {
    let Some(array) = value.get_ref().as_array() else {
        tree::wrong_type("`vip`", value, "an array of tables: `[[vip]]` with two brackets", problems);
        return None;
    };
    Some(array.iter().filter_map(|value| vip(value, problems)).collect())
}

fn vip(value: &Value<'_>, problems: &mut Problems) -> Option<VipDraft> {
    let table = tree::table("`vip`", value, "an array of tables: `[[vip]]`", problems)?;
    const KEYS: &[&[Key]] = &[keys::VIP, keys::SETTINGS, keys::VIP_BACKENDS];
    let section = Section::open("in [[vip]]", value.span(), table, KEYS, problems);
    let name = section.required("name", problems).and_then(|value| name(value, problems));
    let address = section.required("address", problems).and_then(|value| unicast(value, Role::Vip, problems));
    let ports = section.required("ports", problems).and_then(|value| ports(value, problems));
    let forward = section.required("forward", problems).and_then(|value| {
        let forward = tree::parsed("`forward`", value, problems)?;
        Some(Spanned::new(value.span(), forward))
    });
    let mut reader = Reader { section: &section, places: HashMap::new(), problems: &mut *problems };
    let mut given = Given::default();
    given.visit_mut(&mut reader);
    let places = reader.places;
    let health = section.optional("health").and_then(|value| health::health(value, problems));
    let before = problems.0.len();
    let of_vip = section.optional("health").map(|value| OfVip { value, is_sound: health.is_some() });
    let backends = section.optional("backends").and_then(|value| backends(value, of_vip.as_ref(), problems));
    Some(VipDraft {
        header: value.span(),
        name,
        address,
        ports: ports.unwrap_or_default(),
        forward,
        given,
        places,
        health,
        backends: backends.unwrap_or_default(),
        backends_complete: problems.0.len() == before,
    })
}

/// Reads the keys of a VIP that have a default.
struct Reader<'r> {
    section: &'r Section<'r>,
    places: HashMap<&'static str, Range<usize>>,
    problems: &'r mut Problems,
}

impl VisitMut for Reader<'_> {
    fn key<T: KeyValue>(&mut self, key: &'static Key, value: &mut Option<T>) {
        let Some(found) = self.section.optional(key.name) else { return };
        self.places.insert(key.name, found.span());
        *value = tree::key_value(&format!("`{}`", key.name), found, self.problems);
    }
}

fn name(value: &Value<'_>, problems: &mut Problems) -> Option<Spanned<String>> {
    let name = tree::text("`name`", value, problems)?;
    match check_name(name) {
        Ok(()) => Some(Spanned::new(value.span(), name.to_owned())),
        Err(message) => {
            problems.add(value.span(), message);
            None
        }
    }
}

/// Checks that `name` can be a VIP's.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    const MAX: usize = lb_common::VipName::MAX;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let wrong = match name.chars().find(|c| !allowed(*c)) {
        _ if name.is_empty() => "is empty".to_owned(),
        Some(c) => format!("has a `{}`", c.escape_debug()),
        None if name.len() > MAX => format!("has {} bytes", name.len()),
        None => return Ok(()),
    };
    let name = name.escape_debug();
    Err(format!("VIP name `{name}` {wrong}; use 1 to {MAX} letters, digits, `.`, `_` or `-`"))
}

fn ports(value: &Value<'_>, problems: &mut Problems) -> Option<Vec<Spanned<Port>>> {
    let array = tree::array("`ports`", value, problems)?;
    if array.is_empty() {
        problems.add(value.span(), "the VIP serves no ports; list them, for instance `[\"tcp/80\"]`");
    }
    let mut port = |element: &Value<'_>| {
        let port = tree::parsed("a port", element, problems)?;
        Some(Spanned::new(element.span(), port))
    };
    Some(array.iter().filter_map(&mut port).collect())
}

fn backends(value: &Value<'_>, of_vip: Option<&OfVip<'_>>, problems: &mut Problems) -> Option<Vec<BackendDraft>> {
    let array = tree::array("`backends`", value, problems)?;
    Some(array.iter().filter_map(|element| backend(element, of_vip, problems)).collect())
}

fn backend(value: &Value<'_>, of_vip: Option<&OfVip<'_>>, problems: &mut Problems) -> Option<BackendDraft> {
    let table = tree::table("a backend", value, r#"a table: `{ address = "10.0.1.11" }`"#, problems)?;
    let section = Section::open("in a backend", value.span(), table, &[keys::BACKEND], problems);
    let address = section.required("address", problems).and_then(|value| unicast(value, Role::Backend, problems));
    let weight = match section.optional("weight") {
        Some(value) => tree::number("`weight`", value, 0, Backend::MAX_WEIGHT, problems)
            .map(|weight| Spanned::new(value.span(), weight)),
        None => Some(Spanned::new(value.span(), Backend::DEFAULT_WEIGHT)),
    };
    let state = match section.optional("state") {
        Some(value) => with("`state`", value, BackendState::from_word, problems),
        None => Some(BackendState::Active),
    };
    let mac = section.optional("mac").and_then(|value| {
        let mac = tree::parsed("`mac`", value, problems)?;
        Some(Spanned::new(value.span(), mac))
    });
    let mtu = section.optional("mtu").and_then(|value| {
        let mtu = tree::key_value("`mtu`", value, problems)?;
        Some(Spanned::new(value.span(), mtu))
    });
    let tier = section.optional("tier").and_then(|value| {
        let tier = tree::number("`tier`", value, 0, Backend::MAX_TIER.into(), problems)?;
        Some(Spanned::new(value.span(), tier.try_into().ok()?))
    });
    let health = section.optional("health").and_then(|value| health::of_backend(value, of_vip, problems));
    Some(BackendDraft {
        address: address?,
        weight: weight.unwrap_or_else(|| Spanned::new(value.span(), Backend::DEFAULT_WEIGHT)),
        state: state.unwrap_or_default(),
        mac,
        mtu,
        tier,
        health,
    })
}

fn unicast(value: &Value<'_>, role: Role, problems: &mut Problems) -> Option<Spanned<IpAddr>> {
    let address = with("`address`", value, |text| address::unicast(text, role), problems)?;
    Some(Spanned::new(value.span(), address))
}

/// A string that `read` makes a `T` of.
fn with<T, E: ToString>(
    what: &str,
    value: &Value<'_>,
    read: impl Fn(&str) -> Result<T, E>,
    problems: &mut Problems,
) -> Option<T> {
    let read = read(tree::text(what, value, problems)?);
    read.map_err(|message| problems.add(value.span(), message.to_string())).ok()
}
