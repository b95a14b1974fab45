//! Reads `health` of a VIP, and of backends that are asked otherwise: what all probes have, and each type its own in a file
//! here.

mod echo;
mod exchange;
mod lookup;
mod overlay;
mod page;
mod program;
mod service;
mod tls;

use std::{ops::Range, time::Duration};

use toml::{Spanned, de::DeTable};

pub(super) use self::overlay::{OfVip, of_backend};

use super::{
    error::Problems,
    tree::{self, Section, Value},
};
use crate::model::{
    Check, Fail, Health, Least, OnFailure, ProbeVia,
    keys::{self, Key},
    suggest,
};

const SHORTEST: Duration = Duration::from_millis(10);
/// Of a slow start: its parts must last for longer than a change takes.
const SHORTEST_START: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// Instead of the table: nobody is to be asked.
const NONE: &str = "none";

/// Reads the table, or the word that there is none.
pub(super) fn health(value: &Value<'_>, problems: &mut Problems) -> Option<Spanned<Option<Health>>> {
    if value.get_ref().as_str() == Some(NONE) {
        return Some(Spanned::new(value.span(), None));
    }
    let example = r#"a table, `{ type = "tcp" }`, or `"none"`"#;
    let table = tree::table("`health`", value, example, problems)?;
    let health = read(value.span(), table, problems)?;
    Some(Spanned::new(value.span(), Some(health)))
}

/// Reads a table that says all.
fn read(span: Range<usize>, table: &DeTable<'_>, problems: &mut Problems) -> Option<Health> {
    let before = problems.0.len();
    let section = Section::open("in health", span, table, keys::HEALTH_ALL, problems);
    let check = section.required("type", problems).and_then(|value| check(&section, value, problems));
    let is_forwarded = check.as_ref().is_none_or(Check::is_forwarded);
    let via = match section.optional("via") {
        Some(value) => tree::parsed("`via`", value, problems).inspect(|via| {
            if *via == ProbeVia::Path && !is_forwarded {
                let message =
                    "such probes do not go the way of clients' packets; write `via = \"address\"`, or another `type`";
                problems.add(value.span(), message);
            }
        }),
        None if is_forwarded => Some(ProbeVia::Path),
        None => Some(ProbeVia::Address),
    };
    let share = match section.optional("share") {
        Some(value) => tree::boolean("`share`", value, problems).inspect(|share| {
            if *share && via == Some(ProbeVia::Path) {
                let message = "a probe by the clients' path goes to one VIP, and says nothing of the way by another; add `via = \
                               \"address\"`, or leave `share` out";
                problems.add(value.span(), message);
            }
        }),
        None => Some(false),
    };
    let port = section.optional("port").and_then(|value| tree::number("`port`", value, 1, 65_535, problems));
    let mut time = |key: &str, default: Duration| match section.optional(key) {
        Some(value) => time(key, value, SHORTEST, "`2s` or `500ms`", problems).unwrap_or(default),
        None => default,
    };
    let interval = time("interval", Health::INTERVAL);
    let fast_interval = time("fast_interval", Health::FAST_INTERVAL.min(interval));
    let timeout = time("timeout", Health::TIMEOUT);
    let mut count = |key: &str, default: u32| match section.optional(key) {
        Some(value) => tree::number(&format!("`{key}`"), value, 1, Health::MAX_COUNT, problems).unwrap_or(default),
        None => default,
    };
    let (rise, fall) = (count("rise", Health::RISE), count("fall", Health::FALL));
    let slow_start = section.optional("slow_start");
    let slow_start = slow_start.and_then(|value| self::time("slow_start", value, SHORTEST_START, "`30s`", problems));
    let on_failure = tree::parsed_or(&section, "on_failure", OnFailure::Reset, problems);
    let panic = tree::parsed_or(&section, "panic", Health::PANIC, problems);
    let fail = tree::parsed_or(&section, "fail", Health::FAIL, problems);
    let min_healthy = match section.optional("min_healthy") {
        Some(value) if value.get_ref().as_integer().is_some() => {
            tree::number("`min_healthy`", value, 1, u32::MAX, problems).map(Least::Count)
        }
        _ => tree::parsed_or(&section, "min_healthy", Health::MIN_HEALTHY, problems),
    };
    let max_out = tree::parsed_or(&section, "max_out", Health::MAX_OUT, problems);
    let spare_below = tree::parsed_or(&section, "spare_below", Health::SPARE_BELOW, problems);
    if let Some(place) = section.optional("fast_interval").filter(|_| fast_interval > interval) {
        problems.add(place.span(), "`fast_interval` is longer than `interval`; write a shorter one, or leave it out");
    }
    let is_sound = problems.0.len() == before;
    for key in ["panic", "max_out"] {
        if let Some(place) = section.optional(key).filter(|_| fail == Some(Fail::Closed)) {
            let message = format!("with `fail = \"closed\"` those that fail never serve; leave `{key}` out");
            problems.add(place.span(), message);
        }
    }
    let health = Health {
        check: check?,
        via: via?,
        share: share?,
        port: port.and_then(|port| u16::try_from(port).ok()),
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
        on_failure: on_failure?,
        panic: panic?,
        fail: fail?,
        min_healthy: min_healthy?,
        max_out: max_out?,
        spare_below: spare_below?,
        slow_start,
    };
    is_sound.then_some(health)
}

/// Each type of probes has an arm here, and reads the keys that are its own.
fn check(section: &Section<'_>, value: &Value<'_>, problems: &mut Problems) -> Option<Check> {
    let name = tree::text("`type`", value, problems)?;
    let Some((_, own)) = keys::HEALTH_TYPES.iter().find(|(known, _)| *known == name) else {
        let known = suggest::list(keys::HEALTH_TYPES.iter().map(|(name, _)| *name));
        let message = format!("unknown type `{}` of probes; use one of {known}", name.escape_debug());
        problems.add(value.span(), message);
        return None;
    };
    refuse_keys_of_others(section, own, problems);
    match name {
        "icmp" => echo::read(section, problems).map(Check::Icmp),
        "udp" => exchange::read(section, value, problems).map(Check::Udp),
        "dns" => lookup::read(section, value, problems).map(Check::Dns),
        "http" => page::read(section, false, problems).map(Check::Http),
        "tls" => tls::read(section, value, None, problems).map(Check::Tls),
        "https" => {
            let page = page::read(section, true, problems);
            let host = page.as_ref().and_then(|page| page.host.as_deref());
            let tls = tls::read(section, value, host, problems);
            page.zip(tls).map(|(page, tls)| Check::Https { page, tls })
        }
        "exec" => program::read(section, value, problems).map(Check::Exec),
        "grpc" => service::read(section, value, problems),
        _ => Some(Check::Tcp),
    }
}

/// Notes keys that are of other types of probes than the one with `own` keys.
fn refuse_keys_of_others(section: &Section<'_>, own: &[&[Key]], problems: &mut Problems) {
    let is_among = |keys: &[&[Key]], name: &str| keys.iter().copied().flatten().any(|key| key.name == name);
    for key in keys::HEALTH_ALL.iter().skip(1).copied().flatten() {
        let Some(value) = section.optional(key.name).filter(|_| !is_among(own, key.name)) else { continue };
        let types = keys::HEALTH_TYPES.iter().filter(|(_, keys)| is_among(keys, key.name));
        let types: Vec<_> = types.map(|(name, _)| format!("`type = \"{name}\"`")).collect();
        let message = format!("`{}` is for {}; leave it out, or write that", key.name, types.join(" or "));
        problems.add(value.span(), message);
    }
}

/// A time between `shortest` and the longest that there is.
fn time(key: &str, value: &Value<'_>, shortest: Duration, example: &str, problems: &mut Problems) -> Option<Duration> {
    let text = tree::text(&format!("`{key}`"), value, problems)?;
    // humantime panics at sums beyond 2^64, which no text this short is.
    let time = (text.len() <= 20).then(|| humantime::parse_duration(text).ok()).flatten();
    let is_whole = |time: &Duration| time.subsec_nanos().is_multiple_of(1_000_000);
    let time = time.filter(|time| (shortest..=LONGEST).contains(time) && is_whole(time));
    if time.is_none() {
        let text = text.escape_debug();
        let shortest = humantime::format_duration(shortest);
        let message = format!("`{key}` is `{text}`; write a time such as {example}, between `{shortest}` and `1h`");
        problems.add(value.span(), message);
    }
    time
}
