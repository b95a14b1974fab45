//! The commands that read: ask the daemon, print what it says.

use std::{
    fmt::Display,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    exit::{Exit, Failure},
    table::{Align::*, Output, bytes, fields, table},
};
use crate::api::{
    client::Client,
    types::{
        Asked, Backend, BackendHealth, BackendStats, ClientFlows, Counts, Diff, DropStats, FileState, FlowEntries,
        Health, Interface, MapUsage, NextHop, Problem, Settings, SlowStart, Stats, Status, Tracking, Vip, VipStats,
    },
};

/// `naru status`
pub async fn status(client: Client, output: Output) -> Result<Exit, Failure> {
    output.print(&client.status().await?, status_text);
    Ok(Exit::Ok)
}

/// `naru stats`; with `watch`, rates over that many seconds again and again.
pub async fn stats(client: Client, output: Output, watch: Option<u64>) -> Result<Exit, Failure> {
    let mut before = client.stats().await?;
    let Some(seconds) = watch else {
        output.print(&before, |stats| stats_text(stats, ""));
        return Ok(Exit::Ok);
    };
    let mut read_at = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let now = client.stats().await?;
        let rates = rates(&now, &before, read_at.elapsed());
        (before, read_at) = (now, Instant::now());
        // Clear the screen and start at its top (ECMA-48 ED and CUP).
        output.print(&rates, |rates| format!("\x1b[2J\x1b[H{}", stats_text(rates, "/s")));
    }
}

/// `naru vip list`
pub async fn vips(client: Client, output: Output) -> Result<Exit, Failure> {
    output.print(&client.vips().await?, |vips| vips_text(vips));
    Ok(Exit::Ok)
}

/// `naru vip show`
pub async fn vip(client: Client, output: Output, name: &str) -> Result<Exit, Failure> {
    output.print(&client.vip(name).await?, vip_text);
    Ok(Exit::Ok)
}

/// `naru vip show --ready`
pub async fn ready(client: Client, output: Output, name: &str) -> Result<Exit, Failure> {
    let vip = client.vip(name).await?;
    output.print(&vip.not_ready, |not_ready| match not_ready {
        None => format!("{name} can serve\n"),
        Some(reason) => format!("{name} cannot serve: {reason}\n"),
    });
    Ok(if vip.not_ready.is_none() { Exit::Ok } else { Exit::Negative })
}

/// `naru backend list`
pub async fn backends(client: Client, output: Output, vip: Option<&str>) -> Result<Exit, Failure> {
    output.print(&client.backends(vip).await?, |backends| backends_text(backends));
    Ok(Exit::Ok)
}

/// `naru health`
pub async fn health(client: Client, output: Output, vip: Option<&str>) -> Result<Exit, Failure> {
    let mut backends = client.backends(vip).await?;
    backends.retain(|backend| backend.health.is_some() || backend.asked == Some(Asked::None));
    output.print(&backends, |backends| health_text(backends));
    Ok(Exit::Ok)
}

/// `naru interface list`
pub async fn interfaces(client: Client, output: Output) -> Result<Exit, Failure> {
    output.print(&client.interfaces().await?, |interfaces| interfaces_text(interfaces));
    Ok(Exit::Ok)
}

/// `naru diff`
pub async fn diff(client: Client, output: Output) -> Result<Exit, Failure> {
    let diff = client.diff().await?;
    if let Some(refused) = &diff.refused {
        eprintln!("warning: `naru apply` would refuse this: {refused}");
    }
    for warning in &diff.warnings {
        eprintln!("warning: {warning}");
    }
    output.print(&diff, diff_text);
    Ok(if diff.changes.is_empty() { Exit::Ok } else { Exit::Negative })
}

fn status_text(status: &Status) -> String {
    let Status { version, pid, uptime_seconds, config, interfaces, vips, backends, tracking, .. } = status;
    let Tracking { settled_slots, moving_slots, .. } = tracking;
    let uptime = humantime::format_duration(Duration::from_secs(*uptime_seconds));
    let applied_at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(config.applied_at));
    let file = match &config.file {
        FileState::Applied => "is what runs",
        FileState::Changed => "has changes that are not applied: see `naru diff`",
        FileState::Invalid { .. } => "is not valid, the config before runs on: see `naru check`",
        FileState::Unreadable { error } => error,
    };
    let backends = format!("{backends} ({} take new flows)", status.backends_active);
    let config = config.path.display();
    let hash_seed = status.hash_seed.as_ref().map_or("none".to_owned(), |seed| format!("fingerprint {seed}"));
    let mut text = fields(&[
        ("Version", version),
        ("PID", pid),
        ("Uptime", &uptime),
        ("Config", &config),
        ("File", &file),
        ("Applied", &applied_at),
        ("Hash seed", &hash_seed),
        ("VIPs", vips),
        ("Backends", &backends),
        ("Memory", &bytes(status.map_memory_bytes)),
        ("Slots", &format!("{settled_slots} settled, {moving_slots} moving")),
        ("Flows", &flows_text(tracking)),
        ("Sweep", &sweep_text(tracking)),
    ]);
    if status.operations > 0 {
        let (count, verb) = (status.operations, if status.operations == 1 { "has" } else { "have" });
        text += &format!("By hand:   {count} of them {verb} a state set by command: see `naru backend list`\n");
    }
    if !status.problems.is_empty() {
        text += &format!("\n{}\n", problems_text(&status.problems));
    }
    for warning in &status.warnings {
        text += &format!("Warning:   {warning}\n");
    }
    text += &format!("\n{}", interfaces_text(interfaces));
    if !status.unreachable.is_empty() {
        let rows = status
            .unreachable
            .iter()
            .map(|backend| [backend.vip.clone(), backend.address.to_string(), backend.reason.clone()]);
        text += &format!("\n{}", table([("VIP", Left), ("NO WAY TO BACKEND", Left), ("REASON", Left)], rows));
    }
    text + "\n" + &maps_text(&status.maps)
}

fn problems_text(problems: &[Problem]) -> String {
    let header = [("PROBLEM WITH", Left), ("", Left), ("SINCE", Left), ("REASON", Left)];
    table(
        header,
        problems.iter().map(|Problem { kind, what, reason, since }| {
            let since = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(*since));
            [kind.name().to_owned(), what.clone(), since.to_string(), reason.clone()]
        }),
    )
}

fn flows_text(Tracking { max_flows, flows, refused, .. }: &Tracking) -> String {
    let FlowEntries { established, embryonic } = flows;
    let text = format!("{established} established, {embryonic} embryonic, room for {max_flows}");
    // A few names, for there may be thousands.
    const NAMED: usize = 3;
    let mut most: Vec<_> = refused.iter().collect();
    most.sort_by_key(|(vip, flows)| (std::cmp::Reverse(**flows), *vip));
    let named = most.iter().take(NAMED).map(|(vip, flows)| format!("{flows} of {vip}"));
    let others = most.len().saturating_sub(NAMED);
    let others = (others > 0).then(|| format!("some of {others} other VIPs"));
    let named: Vec<_> = named.chain(others).collect();
    if named.is_empty() { text } else { format!("{text}; refused so far: {}", named.join(", ")) }
}

fn sweep_text(tracking: &Tracking) -> String {
    let Some(sweep_us) = tracking.sweep_us else { return "none yet".to_owned() };
    let expired = tracking.expired.established + tracking.expired.embryonic;
    format!("took {:.1} ms; {expired} flows have ended so far", sweep_us as f64 / 1e3)
}

fn maps_text(maps: &[MapUsage]) -> String {
    let header = [("MAP", Left), ("ENTRIES", Right), ("MAX", Right), ("MEMORY", Right)];
    table(
        header,
        maps.iter().map(|MapUsage { name, entries, max_entries, memory_bytes }| {
            [name.clone(), entries.to_string(), max_entries.to_string(), bytes(*memory_bytes)]
        }),
    )
}

fn interfaces_text(interfaces: &[Interface]) -> String {
    let header = [("INTERFACE", Left), ("LINK", Left), ("MTU", Right), ("XDP", Left), ("NOTE", Left)];
    table(
        header,
        interfaces.iter().map(|Interface { name, configured, link, attached, problem }| {
            let up = match link {
                None => "missing",
                Some(link) if link.up => "up",
                Some(_) => "down",
            };
            let mode = attached.as_ref().map_or("-", |attached| attached.mode.as_str());
            let mtu = link.as_ref().map_or("-".to_owned(), |link| link.mtu.to_string());
            let mut notes = Vec::new();
            notes.extend(problem.clone());
            notes.extend(attached.as_ref().and_then(|attached| attached.reason.clone()));
            notes.extend((!configured).then(|| "not in the config".to_owned()));
            [name.clone(), up.to_owned(), mtu, mode.to_owned(), notes.join("; ")]
        }),
    )
}

fn stats_text(stats: &Stats, per: &str) -> String {
    let [packets, octets, new_flows] = ["PACKETS", "BYTES", "NEW FLOWS"].map(|name| format!("{name}{per}"));
    let header = [
        ("VIP", Left),
        ("BACKEND", Left),
        (packets.as_str(), Right),
        (octets.as_str(), Right),
        (new_flows.as_str(), Right),
    ];
    let row = |vip: &str, backend: String, counts: &Counts| {
        let Counts { packets, bytes, new_flows } = counts;
        [vip.to_owned(), backend, packets.to_string(), bytes.to_string(), new_flows.to_string()]
    };
    let rows = stats.vips.iter().flat_map(|VipStats { name, counts, backends, .. }| {
        let backends = backends.iter().map(|BackendStats { address, removed, counts }| {
            let note = if *removed { " (removed)" } else { "" };
            row("", format!("{address}{note}"), counts)
        });
        std::iter::once(row(name, "(all)".to_owned(), counts)).chain(backends).collect::<Vec<_>>()
    });
    let mut text = table(header, rows);
    let tracked: Vec<_> = stats.tracked.iter().filter(|tracked| tracked.packets > 0).collect();
    if !tracked.is_empty() {
        let rows = tracked.iter().map(|tracked| [tracked.outcome.clone(), tracked.packets.to_string()]);
        text += &format!("\n{}", table([("FLOW WAS", Left), (packets.as_str(), Right)], rows));
    }
    let losses: Vec<_> = stats.losses.iter().filter(|loss| loss.packets > 0).collect();
    if !losses.is_empty() {
        let rows = losses.iter().map(|loss| [loss.interface.clone(), loss.cause.clone(), loss.packets.to_string()]);
        text += &format!("\n{}", table([("LOST BY", Left), ("CAUSE", Left), (packets.as_str(), Right)], rows));
    }
    let rows: Vec<_> = stats.drops.iter().flat_map(|drop| drops_of(stats, drop)).collect();
    if rows.is_empty() {
        return text + "\nNothing dropped.\n";
    }
    text + "\n" + &table([("DROPPED BECAUSE", Left), ("VIP", Left), (packets.as_str(), Right)], rows)
}

/// The lines of one reason: a VIP each, and what is of none that is known.
fn drops_of(stats: &Stats, DropStats { reason, packets }: &DropStats) -> Vec<[String; 3]> {
    let of_vip = |vip: &VipStats| vip.drops.iter().find(|drop| drop.reason == *reason).map(|drop| drop.packets);
    let of_vips: Vec<_> = stats.vips.iter().filter_map(|vip| Some((vip.name.as_str(), of_vip(vip)?))).collect();
    let rest = packets.saturating_sub(of_vips.iter().map(|(_, packets)| packets).sum());
    let all = of_vips.into_iter().chain([("-", rest)]).filter(|(_, packets)| *packets > 0);
    all.map(|(vip, packets)| [reason.clone(), vip.to_owned(), packets.to_string()]).collect()
}

/// What came on top of `before`, per second. VIPs and backends that were not there before count from zero.
fn rates(now: &Stats, before: &Stats, elapsed: Duration) -> Stats {
    let count = |packets| Counts { packets, ..Counts::default() };
    let rate = |now, old| count(now).per_second(count(old), elapsed).packets;
    let mut rates = now.clone();
    for vip in &mut rates.vips {
        let old = before.vips.iter().find(|old| old.name == vip.name);
        vip.counts = vip.counts.per_second(old.map(|old| old.counts).unwrap_or_default(), elapsed);
        for drop in &mut vip.drops {
            let old = old.and_then(|old| old.drops.iter().find(|old| old.reason == drop.reason));
            drop.packets = rate(drop.packets, old.map_or(0, |old| old.packets));
        }
        for backend in &mut vip.backends {
            let old = old.and_then(|old| old.backends.iter().find(|old| old.address == backend.address));
            backend.counts = backend.counts.per_second(old.map(|old| old.counts).unwrap_or_default(), elapsed);
        }
    }
    for drop in &mut rates.drops {
        let old = before.drops.iter().find(|old| old.reason == drop.reason);
        drop.packets = rate(drop.packets, old.map_or(0, |old| old.packets));
    }
    for tracked in &mut rates.tracked {
        let old = before.tracked.iter().find(|old| old.outcome == tracked.outcome);
        tracked.packets = rate(tracked.packets, old.map_or(0, |old| old.packets));
    }
    for loss in &mut rates.losses {
        let old = before.losses.iter().find(|old| (&old.interface, &old.cause) == (&loss.interface, &loss.cause));
        loss.packets = rate(loss.packets, old.map_or(0, |old| old.packets));
    }
    rates
}

fn vips_text(vips: &[Vip]) -> String {
    let header = [
        ("NAME", Left),
        ("ADDRESS", Left),
        ("PORTS", Left),
        ("FORWARD", Left),
        ("HASH", Left),
        ("SLOTS", Right),
        ("TRACKING", Left),
        ("BACKENDS", Right),
        ("READY", Left),
    ];
    table(
        header,
        vips.iter().map(|Vip { name, address, ports, forward, settings, not_ready, backends, .. }| {
            let Settings { hash, slots, tracking, .. } = settings;
            let active = backends.iter().filter(|backend| backend.slots > 0).count();
            let configured = backends.iter().filter(|backend| !backend.is_removed()).count();
            let backends = format!("{active}/{configured}");
            let (address, ports, slots) = (address.to_string(), ports.join(","), slots.to_string());
            let (hash, tracking) = (hash.to_string(), tracking.to_string());
            let ready = if not_ready.is_none() { "yes" } else { "no" }.to_owned();
            [name.clone(), address, ports, forward.clone(), hash, slots, tracking, backends, ready]
        }),
    )
}

fn vip_text(vip: &Vip) -> String {
    let Vip { name, address, ports, forward, settings, health, not_ready, backends } = vip;
    let (ports, settings) = (ports.join(", "), settings.labelled());
    let health = health.as_ref().map_or_else(|| "none".to_owned(), Health::to_string);
    let mut lines: Vec<(&str, &dyn Display)> =
        vec![("Name", name), ("Address", address), ("Ports", &ports), ("Forward", forward)];
    lines.extend(settings.iter().map(|(label, value)| (*label, value as &dyn Display)));
    lines.push(("Health", &health));
    let asked = backends.iter().filter_map(|backend| Some((backend.address, backend.asked.as_ref()?)));
    let asked: Vec<_> = asked.map(|(address, asked)| (format!("  {address}"), asked_text(asked))).collect();
    lines.extend(asked.iter().map(|(address, asked)| (address.as_str(), asked as &dyn Display)));
    let ready = not_ready.as_ref().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}"));
    lines.push(("Ready", &ready));
    fields(&lines) + "\n" + &backends_text(backends)
}

fn backends_text(backends: &[Backend]) -> String {
    let header = [
        ("VIP", Left),
        ("BACKEND", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("SLOTS", Right),
        ("FLOWS", Right),
        ("INTERFACE", Left),
        ("NEXT HOP", Left),
        ("NOTE", Left),
    ];
    table(
        header,
        backends.iter().map(|backend| {
            let Backend { vip, address, weight, state, slots, flows, .. } = backend;
            let (interface, next_hop) = match &backend.next_hop {
                NextHop::Known { interface, mac, vlan: 0, .. } => (interface.clone(), mac.clone()),
                NextHop::Known { interface, mac, vlan, .. } => (interface.clone(), format!("{mac} vlan {vlan}")),
                NextHop::Unknown { reason } => ("-".to_owned(), format!("none: {reason}")),
            };
            let [weight, slots] = [weight, slots].map(u32::to_string);
            let (address, flows, note) = (address.to_string(), flows.to_string(), note(backend));
            [vip.clone(), address, state.clone(), weight, slots, flows, interface, next_hop, note]
        }),
    )
}

fn health_text(backends: &[Backend]) -> String {
    if backends.is_empty() {
        return "Nothing is probed: no VIP has `health`.\n".to_owned();
    }
    let header = [
        ("VIP", Left),
        ("BACKEND", Left),
        ("HEALTH", Left),
        ("FOR", Left),
        ("LAST", Left),
        ("TOOK", Right),
        ("GOOD", Right),
        ("FAILED", Right),
        ("FLIPS", Right),
        ("NOTE", Left),
    ];
    table(
        header,
        backends.iter().map(|backend| {
            let (vip, address) = (backend.vip.clone(), backend.address.to_string());
            let Some(health) = &backend.health else {
                let none = || "-".to_owned();
                let note = backend.asked.as_ref().map_or_else(String::new, asked_text);
                return [vip, address, none(), none(), none(), none(), none(), none(), none(), note];
            };
            let BackendHealth { verdict, since, last, took_us, good, failed, flips, .. } = health;
            let ago = |at: u64| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                humantime::format_duration(Duration::from_secs(now.saturating_sub(at))).to_string()
            };
            let last = last.map_or("-".to_owned(), |at| format!("{} ago", ago(at)));
            let took = took_us.map_or("-".to_owned(), |took| format!("{:.1} ms", took as f64 / 1e3));
            let [good, failed, flips] = [good, failed, flips].map(u64::to_string);
            [vip, address, verdict.clone(), ago(*since), last, took, good, failed, flips, health_note(backend, health)]
        }),
    )
}

/// How a backend is asked that is asked otherwise.
fn asked_text(asked: &Asked) -> String {
    match asked {
        Asked::None => "not asked: counts as working".to_owned(),
        Asked::So(health) => health.asks().to_string(),
    }
}

/// What is wrong, how far the verdict is from another, and what does not follow from it.
fn health_note(backend: &Backend, health: &BackendHealth) -> String {
    let BackendHealth { verdict, failure, against, needed, void, .. } = health;
    let forming = (*against > 0).then(|| {
        let other = if verdict == "down" { "up" } else { "down" };
        format!("{against} of {needed} until {other}")
    });
    let serves =
        (verdict == "down" && backend.state == "active").then(|| "serves all the same: too few work".to_owned());
    let void = (*void > 0).then(|| format!("{void} void"));
    let slow_start = backend.slow_start.map(slow_start_note);
    let asked = backend.asked.as_ref().map(|asked| format!("asked otherwise: {}", asked_text(asked)));
    let shared = health.shared_by.filter(|vips| *vips > 1).map(|vips| format!("asked once for {vips} VIPs"));
    [failure.clone(), slow_start, forming, serves, void, asked, shared]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

/// How far a backend is that gets its slots back in parts.
fn slow_start_note(SlowStart { eighths, whole_ms }: SlowStart) -> String {
    // Rounded up: it has all no later than this says.
    let left = humantime::format_duration(Duration::from_secs(whole_ms.div_ceil(1000)));
    format!("slow start: {eighths} of 8 parts of its slots, all in {left}")
}

fn note(backend: &Backend) -> String {
    let pinned = backend.mac.is_some().then(|| "MAC address pinned".to_owned());
    let mtu = backend.mtu.map(|mtu| format!("mtu {mtu}"));
    let operation = backend.operation.as_ref().map(|operation| {
        let file = backend.file_state.as_deref().unwrap_or("nothing of it");
        format!("{operation} (the file says {file})")
    });
    let deadline = backend.cut_seconds.filter(|_| !backend.drained).map(|left| match left {
        0 => "what is left is cut".to_owned(),
        left => format!("cut in {}", humantime::format_duration(Duration::from_secs(left))),
    });
    let clients = backend.clients.iter().map(|ClientFlows { prefix, flows }| format!("{flows} of {prefix}"));
    let clients = clients.collect::<Vec<_>>().join(", ");
    let clients = (!clients.is_empty()).then(|| format!("flows: {clients}"));
    let failure = backend.health.as_ref().filter(|health| health.verdict == "down");
    let failure = failure.map(|health| match &health.failure {
        Some(failure) => format!("fails its probes: {failure}"),
        None => "fails its probes".to_owned(),
    });
    let slow_start = backend.slow_start.map(slow_start_note);
    let drain = Some(drain_note(backend)).filter(|note| !note.is_empty());
    let parts = [failure, slow_start, pinned, mtu, drain, clients, deadline, operation];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// How far a backend is that takes no new flows.
fn drain_note(backend: &Backend) -> String {
    if backend.drained {
        return "drained".to_owned();
    }
    // One that gave away some of its slots goes on; that is no news.
    if backend.held_slots == 0 || backend.slots > 0 {
        return String::new();
    }
    format!("{} slots held for idle flows, {}", backend.held_slots, held_for(backend))
}

/// How much longer slots are held for a backend.
pub(super) fn held_for(Backend { held_seconds, held_by_refusals, .. }: &Backend) -> String {
    let held = humantime::format_duration(Duration::from_secs(*held_seconds));
    let unless = if *held_by_refusals { ", once flows are refused no more" } else { "" };
    format!("{held} at most{unless}")
}

fn diff_text(diff: &Diff) -> String {
    if diff.changes.is_empty() {
        return "The file is what runs.\n".to_owned();
    }
    diff.changes.iter().map(|change| format!("{change}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Operation;
    use crate::api::types::{LossStats, TrackedStats};

    fn stats(packets: u64, dropped: u64) -> Stats {
        let counts = Counts { packets, bytes: packets * 60, new_flows: packets / 10 };
        Stats {
            vips: vec![VipStats {
                name: "web".into(),
                counts,
                drops: vec![DropStats { reason: "no_backend".into(), packets: dropped * 2 / 5 }],
                backends: vec![
                    BackendStats { address: "10.0.0.1".parse().unwrap(), removed: false, counts },
                    BackendStats { address: "10.0.0.2".parse().unwrap(), removed: true, counts: Counts::default() },
                ],
            }],
            drops: vec![
                DropStats { reason: "truncated".into(), packets: 0 },
                DropStats { reason: "no_backend".into(), packets: dropped },
            ],
            tracked: vec![
                TrackedStats { outcome: "known".into(), packets },
                TrackedStats { outcome: "kept".into(), packets: 0 },
            ],
            losses: vec![
                LossStats { interface: "eth0".into(), cause: "transmit".into(), packets: dropped },
                LossStats { interface: "eth0".into(), cause: "redirect".into(), packets: 0 },
            ],
        }
    }

    #[test]
    fn stats_tell_backends_below_their_vip_and_only_what_happened() {
        assert_eq!(
            stats_text(&stats(1000, 5), ""),
            "VIP   BACKEND              PACKETS   BYTES   NEW FLOWS\n\
             web   (all)                   1000   60000         100\n      \
                   10.0.0.1                1000   60000         100\n      \
                   10.0.0.2 (removed)         0       0           0\n\
             \n\
             FLOW WAS   PACKETS\n\
             known         1000\n\
             \n\
             LOST BY   CAUSE      PACKETS\n\
             eth0      transmit         5\n\
             \n\
             DROPPED BECAUSE   VIP   PACKETS\n\
             no_backend        web         2\n\
             no_backend        -           3\n"
        );
        assert!(stats_text(&stats(1, 0), "").ends_with("\nNothing dropped.\n"));
    }

    #[test]
    fn rates_are_what_came_on_top_per_second() {
        let rates = rates(&stats(1600, 45), &stats(1000, 5), Duration::from_secs(2));
        assert_eq!(rates.vips[0].counts, Counts { packets: 300, bytes: 18_000, new_flows: 30 });
        assert_eq!(rates.vips[0].backends[0].counts.packets, 300);
        assert_eq!((rates.drops[1].packets, rates.vips[0].drops[0].packets), (20, 8));
        assert_eq!(rates.tracked[0].packets, 300);
        assert_eq!(rates.losses[0].packets, 20);
    }

    #[test]
    fn rates_of_counters_that_began_anew_are_never_negative() {
        assert_eq!(rates(&stats(10, 0), &stats(1000, 5), Duration::from_secs(1)).vips[0].counts, Counts::default());
    }

    fn backend(state: &str, slots: u32, held_slots: u32) -> Backend {
        Backend {
            vip: "web".into(),
            address: "10.0.0.1".parse().unwrap(),
            weight: 100,
            state: state.into(),
            health: None,
            slow_start: None,
            asked: None,
            operation: None,
            file_state: None,
            slots,
            flows: 12,
            held_slots,
            held_seconds: 75,
            held_by_refusals: false,
            drained: false,
            cut_seconds: None,
            clients: Vec::new(),
            mac: None,
            mtu: None,
            next_hop: NextHop::Known { interface: "eth0".into(), mac: "02:00:00:00:00:01".into(), vlan: 7, mtu: 1500 },
        }
    }

    #[test]
    fn a_backend_shows_its_way_or_why_there_is_none() {
        let unknown = NextHop::Unknown { reason: "no route".into() };
        let active = || backend("active", 16_381, 0);
        assert_eq!(
            backends_text(&[active(), Backend { next_hop: unknown, ..active() }]),
            "VIP   BACKEND    STATE    WEIGHT   SLOTS   FLOWS   INTERFACE   NEXT HOP                   NOTE\n\
             web   10.0.0.1   active      100   16381      12   eth0        02:00:00:00:00:01 vlan 7\n\
             web   10.0.0.1   active      100   16381      12   -           none: no route\n"
        );
    }

    #[test]
    fn a_backend_notes_what_it_still_has() {
        assert_eq!(note(&backend("active", 10, 5)), "", "it gave some slots away");
        assert_eq!(note(&backend("drain", 0, 5461)), "5461 slots held for idle flows, 1m 15s at most");
        assert_eq!(
            note(&Backend { held_by_refusals: true, ..backend("drain", 0, 5461) }),
            "5461 slots held for idle flows, 1m 15s at most, once flows are refused no more"
        );
        let mac = Some("02:00:00:00:00:01".to_owned());
        assert_eq!(note(&Backend { mac: mac.clone(), ..backend("active", 10, 5) }), "MAC address pinned");
        assert_eq!(note(&Backend { mac, drained: true, ..backend("drain", 0, 0) }), "MAC address pinned; drained");
        let mtu = Some("1400".parse().unwrap());
        assert_eq!(note(&Backend { mtu, ..backend("active", 10, 5) }), "mtu 1400");
        assert_eq!(note(&backend("removed", 0, 0)), "", "its flows are in the column beside");
        assert_eq!(note(&Backend { drained: true, ..backend("drain", 0, 0) }), "drained");
        let slow_start = Some(SlowStart { eighths: 2, whole_ms: 11_100 });
        let slow = Backend { slow_start, ..backend("active", 10, 0) };
        assert_eq!(note(&slow), "slow start: 2 of 8 parts of its slots, all in 12s");
        let clients = ["198.51.100.0/24", "2001:db8::/48"].map(|prefix| prefix.parse().unwrap());
        let clients = clients.iter().zip([7, 5]).map(|(prefix, flows)| ClientFlows { prefix: *prefix, flows });
        let waits = Backend { clients: clients.collect(), cut_seconds: Some(90), ..backend("drain", 0, 0) };
        assert_eq!(note(&waits), "flows: 7 of 198.51.100.0/24, 5 of 2001:db8::/48; cut in 1m 30s");
        let operation = Operation {
            state: lb_common::BackendState::Drain,
            by: "alice (uid 1000)".into(),
            since: 1,
            why: Some("disk".into()),
            deadline: None,
            until: None,
        };
        let file_state = Some("active".to_owned());
        let by_command = Backend { operation: Some(operation), file_state, drained: true, ..backend("drain", 0, 0) };
        assert_eq!(
            note(&by_command),
            "drained; drain by alice (uid 1000) since 1970-01-01T00:00:01Z: disk (the file says active)"
        );
    }

    #[test]
    fn the_flow_table_tells_its_fill_and_what_was_refused() {
        let flows = FlowEntries { established: 4, embryonic: 1 };
        let mut tracking = Tracking { max_flows: 66, flows, ..Tracking::default() };
        assert_eq!(flows_text(&tracking), "4 established, 1 embryonic, room for 66");
        tracking.refused = [("a", 1), ("b", 9), ("c", 3), ("d", 2), ("e", 1)].map(|(vip, n)| (vip.into(), n)).into();
        assert_eq!(
            flows_text(&tracking),
            "4 established, 1 embryonic, room for 66; refused so far: 9 of b, 3 of c, 2 of d, some of 2 other VIPs"
        );
        tracking.expired = FlowEntries { established: 4, embryonic: 2 };
        tracking.sweep_us = Some(1500);
        assert_eq!(sweep_text(&tracking), "took 1.5 ms; 6 flows have ended so far");
        assert_eq!(sweep_text(&Tracking::default()), "none yet");
    }

    #[test]
    fn what_fails_is_told_with_the_reason_and_how_far_the_verdict_is() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let health = BackendHealth {
            verdict: "down".into(),
            since: now - 75,
            last: Some(now),
            took_us: Some(1250),
            failure: Some("status 503".into()),
            against: 0,
            needed: 2,
            flips: 1,
            good: 40,
            failed: 9,
            void: 0,
            shared_by: None,
        };
        let failed = Backend { health: Some(health.clone()), ..backend("failed", 0, 0) };
        assert_eq!(note(&failed), "fails its probes: status 503");
        assert_eq!(health_note(&failed, &health), "status 503");
        let alone = Backend { state: "active".into(), ..failed.clone() };
        assert_eq!(health_note(&alone, &health), "status 503; serves all the same: too few work");
        let forming = BackendHealth { failure: None, against: 1, void: 3, ..health.clone() };
        assert_eq!(health_note(&failed, &forming), "1 of 2 until up; 3 void");
        let text = health_text(&[failed]);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..5], ["web", "10.0.0.1", "down", "1m", "15s"], "{line}");
        assert!(line.ends_with("1.2 ms     40        9       1   status 503"), "{line}");
        assert_eq!(health_text(&[]), "Nothing is probed: no VIP has `health`.\n");
    }

    #[test]
    fn a_vip_tells_its_tracking() {
        let vip = Vip {
            name: "web".into(),
            address: "203.0.113.10".parse().unwrap(),
            ports: vec!["tcp/80".into(), "udp/443".into()],
            forward: "ipip".into(),
            settings: Settings {
                udp_idle: "90s".parse().unwrap(),
                vrf: Some("default".parse().unwrap()),
                mark: Some(16.into()),
                ..Settings::default()
            },
            health: None,
            not_ready: None,
            backends: Vec::new(),
        };
        let shown = vip_text(&vip);
        for line in [
            "Tracking:        adaptive\n",
            "TCP idle:        15m\n",
            "UDP idle:        1m 30s\n",
            "Drain deadline:  none\n",
            "VRF:             default\n",
            "Mark:            0x10\n",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        let removed = Backend { state: Backend::REMOVED.into(), ..backend("", 0, 0) };
        let vip = Vip { backends: vec![backend("active", 16_381, 0), removed], ..vip };
        assert_eq!(
            vips_text(&[vip]),
            "NAME   ADDRESS        PORTS            FORWARD   HASH      SLOTS   TRACKING   BACKENDS   READY\n\
             web    203.0.113.10   tcp/80,udp/443   ipip      5-tuple   16381   adaptive        1/1   yes\n"
        );
    }
}
