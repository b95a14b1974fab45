//! The commands that read: ask the daemon, print what it says.

use std::time::{Duration, Instant, UNIX_EPOCH};

use super::{
    exit::{Exit, Failure},
    table::{Align::*, Output, bytes, fields, table},
};
use crate::api::{
    client::Client,
    types::{Backend, Counts, Diff, FileState, Interface, MapUsage, NextHop, Stats, Status, Vip, VipStats},
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

/// `naru backend list`
pub async fn backends(client: Client, output: Output, vip: Option<&str>) -> Result<Exit, Failure> {
    output.print(&client.backends(vip).await?, |backends| backends_text(backends));
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
    output.print(&diff, diff_text);
    Ok(if diff.changes.is_empty() { Exit::Ok } else { Exit::Negative })
}

fn status_text(status: &Status) -> String {
    let Status { version, pid, uptime_seconds, config, interfaces, vips, backends, .. } = status;
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
    let mut text = fields([
        ("Version", version),
        ("PID", pid),
        ("Uptime", &uptime),
        ("Config", &config),
        ("File", &file),
        ("Applied", &applied_at),
        ("VIPs", vips),
        ("Backends", &backends),
        ("Memory", &bytes(status.map_memory_bytes)),
    ]);
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
    let rows = stats.vips.iter().flat_map(|VipStats { name, counts, backends }| {
        let backends = backends.iter().map(|backend| row("", backend.address.to_string(), &backend.counts));
        std::iter::once(row(name, "(all)".to_owned(), counts)).chain(backends).collect::<Vec<_>>()
    });
    let text = table(header, rows);
    let drops: Vec<_> = stats.drops.iter().filter(|drop| drop.packets > 0).collect();
    if drops.is_empty() {
        return text + "\nNothing dropped.\n";
    }
    let rows = drops.iter().map(|drop| [drop.reason.clone(), drop.packets.to_string()]);
    text + "\n" + &table([("DROPPED BECAUSE", Left), (packets.as_str(), Right)], rows)
}

/// What came on top of `before`, per second. VIPs and backends that were not there before count from zero.
fn rates(now: &Stats, before: &Stats, elapsed: Duration) -> Stats {
    let mut rates = now.clone();
    for vip in &mut rates.vips {
        let old = before.vips.iter().find(|old| old.name == vip.name);
        vip.counts = vip.counts.per_second(old.map(|old| old.counts).unwrap_or_default(), elapsed);
        for backend in &mut vip.backends {
            let old = old.and_then(|old| old.backends.iter().find(|old| old.address == backend.address));
            backend.counts = backend.counts.per_second(old.map(|old| old.counts).unwrap_or_default(), elapsed);
        }
    }
    for drop in &mut rates.drops {
        let old = before.drops.iter().find(|old| old.reason == drop.reason).map_or(0, |old| old.packets);
        let count = |packets| Counts { packets, ..Counts::default() };
        drop.packets = count(drop.packets).per_second(count(old), elapsed).packets;
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
    ];
    table(
        header,
        vips.iter().map(|Vip { name, address, ports, forward, hash, slots, tracking, backends, .. }| {
            let active = backends.iter().filter(|backend| backend.slots > 0).count();
            let backends = format!("{active}/{}", backends.len());
            let (address, ports, slots) = (address.to_string(), ports.join(","), slots.to_string());
            let [name, forward, hash, tracking] = [name, forward, hash, tracking].map(String::clone);
            [name, address, ports, forward, hash, slots, tracking, backends]
        }),
    )
}

fn vip_text(vip: &Vip) -> String {
    let Vip { name, address, ports, forward, hash, slots, tracking, tcp_idle, udp_idle, backends } = vip;
    fields([
        ("Name", name),
        ("Address", address),
        ("Ports", &ports.join(", ")),
        ("Forward", forward),
        ("Hash", hash),
        ("Slots", slots),
        ("Tracking", tracking),
        ("TCP idle", tcp_idle),
        ("UDP idle", udp_idle),
    ]) + "\n"
        + &backends_text(backends)
}

fn backends_text(backends: &[Backend]) -> String {
    let header = [
        ("VIP", Left),
        ("BACKEND", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("SLOTS", Right),
        ("INTERFACE", Left),
        ("NEXT HOP", Left),
    ];
    table(
        header,
        backends.iter().map(|Backend { vip, address, weight, state, slots, next_hop }| {
            let (interface, next_hop) = match next_hop {
                NextHop::Known { interface, mac, vlan: 0, .. } => (interface.clone(), mac.clone()),
                NextHop::Known { interface, mac, vlan, .. } => (interface.clone(), format!("{mac} vlan {vlan}")),
                NextHop::Unknown { reason } => ("-".to_owned(), format!("none: {reason}")),
            };
            let [weight, slots] = [weight, slots].map(u32::to_string);
            [vip.clone(), address.to_string(), state.clone(), weight, slots, interface, next_hop]
        }),
    )
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
    use crate::api::types::{BackendStats, DropStats};

    fn stats(packets: u64, dropped: u64) -> Stats {
        let counts = Counts { packets, bytes: packets * 60, new_flows: packets / 10 };
        Stats {
            vips: vec![VipStats {
                name: "web".into(),
                counts,
                backends: vec![BackendStats { address: "10.0.0.1".parse().unwrap(), counts }],
            }],
            drops: vec![
                DropStats { reason: "truncated".into(), packets: 0 },
                DropStats { reason: "no_backend".into(), packets: dropped },
            ],
        }
    }

    #[test]
    fn stats_tell_backends_below_their_vip_and_only_drops_that_happened() {
        assert_eq!(
            stats_text(&stats(1000, 5), ""),
            "VIP   BACKEND    PACKETS   BYTES   NEW FLOWS\n\
             web   (all)         1000   60000         100\n      \
                   10.0.0.1      1000   60000         100\n\
             \n\
             DROPPED BECAUSE   PACKETS\n\
             no_backend              5\n"
        );
        assert!(stats_text(&stats(1, 0), "").ends_with("\nNothing dropped.\n"));
    }

    #[test]
    fn rates_are_what_came_on_top_per_second() {
        let rates = rates(&stats(1600, 45), &stats(1000, 5), Duration::from_secs(2));
        assert_eq!(rates.vips[0].counts, Counts { packets: 300, bytes: 18_000, new_flows: 30 });
        assert_eq!(rates.vips[0].backends[0].counts.packets, 300);
        assert_eq!(rates.drops[1].packets, 20);
    }

    #[test]
    fn rates_of_counters_that_began_anew_are_never_negative() {
        assert_eq!(rates(&stats(10, 0), &stats(1000, 5), Duration::from_secs(1)).vips[0].counts, Counts::default());
    }

    #[test]
    fn a_backend_shows_its_way_or_why_there_is_none() {
        let backend = |next_hop| Backend {
            vip: "web".into(),
            address: "10.0.0.1".parse().unwrap(),
            weight: 100,
            state: "active".into(),
            slots: 16_381,
            next_hop,
        };
        let known = NextHop::Known { interface: "eth0".into(), mac: "02:00:00:00:00:01".into(), vlan: 7, mtu: 1500 };
        let unknown = NextHop::Unknown { reason: "no route".into() };
        assert_eq!(
            backends_text(&[backend(known), backend(unknown)]),
            "VIP   BACKEND    STATE    WEIGHT   SLOTS   INTERFACE   NEXT HOP\n\
             web   10.0.0.1   active      100   16381   eth0        02:00:00:00:00:01 vlan 7\n\
             web   10.0.0.1   active      100   16381   -           none: no route\n"
        );
    }

    #[test]
    fn a_vip_tells_its_tracking() {
        let vip = Vip {
            name: "web".into(),
            address: "203.0.113.10".parse().unwrap(),
            ports: vec!["tcp/80".into(), "udp/443".into()],
            forward: "ipip".into(),
            hash: "5-tuple".into(),
            slots: 16_381,
            tracking: "adaptive".into(),
            tcp_idle: "15m".into(),
            udp_idle: "1m 30s".into(),
            backends: Vec::new(),
        };
        let shown = vip_text(&vip);
        for line in ["Tracking:  adaptive\n", "TCP idle:  15m\n", "UDP idle:  1m 30s\n"] {
            assert!(shown.contains(line), "{shown}");
        }
        assert_eq!(
            vips_text(&[vip]),
            "NAME   ADDRESS        PORTS            FORWARD   HASH      SLOTS   TRACKING   BACKENDS\n\
             web    203.0.113.10   tcp/80,udp/443   ipip      5-tuple   16381   adaptive        0/0\n"
        );
    }
}
