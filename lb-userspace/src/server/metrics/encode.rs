//! A [`Snapshot`] in the OpenMetrics text format, by prometheus-client.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc, time::UNIX_EPOCH};

use lb_common::FlowOutcome;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::snapshot::{BackendSample, Snapshot, VipSample};
use crate::{
    api::{
        flows::FlowTable,
        types::{
            Counts, DropStats, FlowEntries, Interface, LossStats, MapUsage, Problem, ProblemKind, TrackedStats,
            Tracking,
        },
    },
    controller::Applies,
    model::Word as _,
};

/// Content type of the OpenMetrics text format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes `snapshot` to `page` in the OpenMetrics text format, bit by bit.
pub fn encode(snapshot: Shared, page: &mut impl fmt::Write) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(snapshot)));
    text::encode(page, &registry)
}

/// A snapshot that several pages are made of.
pub type Shared = Arc<Snapshot>;

/// Only a type of this crate can be a collector.
#[derive(Debug)]
struct Page(Shared);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (encoder, snapshot) = (&mut encoder, &*self.0);
        encode_build_info(encoder)?;
        encode_vips(encoder, &snapshot.vips)?;
        encode_backends(encoder, &snapshot.vips)?;
        encode_drops(encoder, &snapshot.drops)?;
        encode_losses(encoder, &snapshot.losses)?;
        encode_tracking(encoder, &snapshot.tracking)?;
        encode_tracked(encoder, &snapshot.tracked)?;
        encode_interfaces(encoder, &snapshot.interfaces)?;
        encode_maps(encoder, &snapshot.maps)?;
        encode_problems(encoder, &snapshot.problems)?;
        let help = "Backends whose state an operator has set by command, over the config file";
        let mut metric = encoder.encode_descriptor("naru_operations", help, None, MetricType::Gauge)?;
        metric.encode_gauge(&snapshot.operations)?;
        let help = "Probes of backends that began more than 100 ms after their time";
        let mut metric = encoder.encode_descriptor("naru_health_late_probes", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, u64>(&snapshot.late_probes, None)?;
        let help = "How often the following of next hops and interfaces has failed and was begun anew";
        let mut metric = encoder.encode_descriptor("naru_netlink_restarts", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, u64>(&snapshot.netlink_restarts, None)?;
        encode_applies(encoder, snapshot)
    }
}

fn encode_build_info(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut metric = encoder.encode_descriptor("naru_build", "The version that runs", None, MetricType::Info)?;
    metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
}

fn encode_vips(encoder: &mut DescriptorEncoder, vips: &[VipSample]) -> fmt::Result {
    let of_vips =
        |count: fn(&Counts) -> u64| vips.iter().map(move |vip| ([("vip", vip.name.as_str())], count(&vip.counts)));
    let help = "Packets sent to the backends of a VIP";
    counter(encoder, "naru_vip_packets", help, None, of_vips(|counts| counts.packets))?;
    let help = "Bytes sent to the backends of a VIP, from the IP header on, before encapsulation";
    counter(encoder, "naru_vip", help, Some(&Unit::Bytes), of_vips(|counts| counts.bytes))?;
    let help = "TCP segments sent to the backends of a VIP that open a connection";
    counter(encoder, "naru_vip_new_flows", help, None, of_vips(|counts| counts.new_flows))?;
    let drops = vips.iter().flat_map(|vip| {
        vip.drops.iter().map(|drop| ([("vip", vip.name.as_str()), ("reason", drop.reason.as_str())], drop.packets))
    });
    counter(encoder, "naru_vip_drops", "Packets for a VIP that were dropped", None, drops)?;
    let ready = vips.iter().map(|vip| ([("vip", vip.name.as_str())], u32::from(vip.is_ready)));
    let help = "1 while a VIP can serve: packets come in, and go to a backend that is not known to fail";
    gauge(encoder, "naru_vip_ready", help, None, ready)
}

fn encode_backends(encoder: &mut DescriptorEncoder, vips: &[VipSample]) -> fmt::Result {
    // Labels are made as they are written: all of them at once would take more memory than the samples.
    fn of_backends<V>(
        vips: &[VipSample],
        value: impl Fn(&BackendSample) -> V,
    ) -> impl Iterator<Item = (Labels<'_>, V)> {
        let backends = vips.iter().flat_map(|vip| vip.backends.iter().map(|backend| (vip.name.as_str(), backend)));
        backends.map(move |(vip, backend)| (labels(vip, backend.address), value(backend)))
    }
    let help = "Packets sent to a backend";
    counter(encoder, "naru_backend_packets", help, None, of_backends(vips, |backend| backend.counts.packets))?;
    let help = "Bytes sent to a backend, from the IP header on, before encapsulation";
    counter(encoder, "naru_backend", help, Some(&Unit::Bytes), of_backends(vips, |backend| backend.counts.bytes))?;
    let help = "TCP segments sent to a backend that open a connection";
    counter(encoder, "naru_backend_new_flows", help, None, of_backends(vips, |backend| backend.counts.new_flows))?;
    let help = "Slots of the VIP's table that are the backend's";
    gauge(encoder, "naru_backend_slots", help, None, of_backends(vips, |backend| backend.slots))?;
    let weights = of_backends(vips, |backend| backend.weight).filter_map(|(labels, weight)| Some((labels, weight?)));
    gauge(encoder, "naru_backend_weight", "Weight of a backend in the config", None, weights)?;
    let states = vips.iter().flat_map(|vip| vip.backends.iter().map(|backend| (vip.name.as_str(), backend)));
    let states = states.filter_map(|(vip, backend)| {
        let [name, address] = labels(vip, backend.address);
        let by = if backend.is_by_hand { "operator" } else { "file" };
        Some(([name, address, ("state", backend.state?.word().into()), ("set_by", by.into())], 1))
    });
    let help = "1 with the state of a backend, and who has set it: the config file, or an operator by command";
    gauge(encoder, "naru_backend_state", help, None, states)?;
    let help = "1 while a backend does not fail its probes";
    let ups = of_backends(vips, |backend| backend.health.map(|health| u32::from(health.up)));
    let ups = ups.filter_map(|(labels, up)| Some((labels, up?)));
    gauge(encoder, "naru_backend_up", help, None, ups)?;
    let help = "The part of its slots that a backend has: below 1 during its slow start";
    let parts = of_backends(vips, |backend| backend.part).filter_map(|(labels, part)| Some((labels, part?)));
    gauge(encoder, "naru_backend_slow_start", help, None, parts)?;
    let help = "How long the last probe of a backend took";
    let took = of_backends(vips, |backend| backend.health.map(|health| health.took));
    let took = took.filter_map(|(labels, took)| Some((labels, took?)));
    gauge(encoder, "naru_health_probe", help, Some(&Unit::Seconds), took)?;
    let flips = of_backends(vips, |backend| backend.health.map(|health| health.flips));
    let flips = flips.filter_map(|(labels, flips)| Some((labels, flips?)));
    counter(encoder, "naru_health_flips", "Changes of what probes say of a backend", None, flips)?;
    let probes = vips.iter().flat_map(|vip| vip.backends.iter().map(|backend| (vip.name.as_str(), backend)));
    let probes = probes.filter_map(|(vip, backend)| Some((labels(vip, backend.address), backend.health?.probes)));
    let probes = probes.flat_map(|([name, address], probes)| {
        ["good", "failed", "void"]
            .into_iter()
            .zip(probes)
            .map(move |(result, probes)| ([name.clone(), address.clone(), ("result", result.into())], probes))
    });
    counter(encoder, "naru_health_probes", "Probes of a backend by what came of them", None, probes)?;
    let help = "1 while the way to a backend is known";
    let ups = of_backends(vips, |backend| u32::from(backend.next_hop_up));
    gauge(encoder, "naru_backend_next_hop_up", help, None, ups)?;
    let help = "Entries of a backend's flows in the flow table";
    gauge(encoder, "naru_backend_flows", help, None, of_backends(vips, |backend| backend.flows))?;
    let help = "Slots that are no longer a backend's and on which flows without an entry go to it still";
    gauge(encoder, "naru_backend_held_slots", help, None, of_backends(vips, |backend| backend.held_slots))
}

fn encode_tracking(encoder: &mut DescriptorEncoder, tracking: &Tracking) -> fmt::Result {
    let Tracking { max_flows, flows, expired, refused, cut, settled_slots, moving_slots, sweep_us } = tracking;
    let slots =
        [("settled", *settled_slots), ("moving", *moving_slots)].map(|(state, slots)| ([("state", state)], slots));
    gauge(encoder, "naru_slots", "Slots by whether flows of several backends may be on them", None, slots.into_iter())?;

    let of_tables = |FlowEntries { established, embryonic }: &FlowEntries| {
        let tables = [(FlowTable::Established, *established), (FlowTable::Embryonic, *embryonic)];
        tables.map(|(table, entries)| ([("table", table.name())], entries)).into_iter()
    };
    gauge(encoder, "naru_flows", "Flows that are remembered", None, of_tables(flows))?;
    let help = "Flows that there is room to remember";
    encoder.encode_descriptor("naru_max_flows", help, None, MetricType::Gauge)?.encode_gauge(max_flows)?;
    let help = "Flows that were forgotten because they had ended";
    counter(encoder, "naru_flow_expirations", help, None, of_tables(expired))?;
    let help = "Flows that were not entered for want of room, or because their VIP had its share";
    let refused = refused.iter().map(|(vip, flows)| ([("vip", vip.as_str())], *flows));
    counter(encoder, "naru_flow_refusals", help, None, refused)?;
    let help = "Flows that were left of a drain when its deadline passed, and were cut";
    let mut metric = encoder.encode_descriptor("naru_flow_cuts", help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, u64, u64>(cut, None)?;
    let Some(sweep_us) = sweep_us else { return Ok(()) };
    let (name, help) = ("naru_sweep_duration", "How long the last sweep over the flow table took");
    let sweep = *sweep_us as f64 / 1e6;
    encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?.encode_gauge(&sweep)
}

fn encode_tracked(encoder: &mut DescriptorEncoder, tracked: &[TrackedStats]) -> fmt::Result {
    let packets = tracked.iter().map(|tracked| ([("outcome", tracked.outcome.as_str())], tracked.packets));
    counter(encoder, "naru_flow_packets", "Packets that the flow table was asked for", None, packets)?;
    let promoted = tracked.iter().find(|tracked| tracked.outcome == FlowOutcome::Promoted.name());
    let promotions = promoted.map_or(0, |tracked| tracked.packets);
    let (name, help) = ("naru_flow_promotions", "Flows that went from the embryonic to the established ones");
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, u64, u64>(&promotions, None)
}

fn encode_losses(encoder: &mut DescriptorEncoder, losses: &[LossStats]) -> fmt::Result {
    let losses = losses.iter();
    let losses =
        losses.map(|loss| ([("interface", loss.interface.as_str()), ("cause", loss.cause.as_str())], loss.packets));
    let help = "Frames that were sent and that an interface lost";
    counter(encoder, "naru_interface_losses", help, None, losses)
}

fn encode_drops(encoder: &mut DescriptorEncoder, drops: &[DropStats]) -> fmt::Result {
    let drops = drops.iter().map(|drop| ([("reason", drop.reason.as_str())], drop.packets));
    counter(encoder, "naru_drops", "Packets dropped", None, drops)
}

fn encode_interfaces(encoder: &mut DescriptorEncoder, interfaces: &[Interface]) -> fmt::Result {
    let attached = interfaces.iter().map(|interface| {
        let mode = interface.attached.as_ref().map_or("none", |attached| attached.mode.as_str());
        ([("interface", interface.name.as_str()), ("mode", mode)], u32::from(interface.attached.is_some()))
    });
    let help = "1 while the data plane is attached to an interface";
    gauge(encoder, "naru_interface_attached", help, None, attached)
}

fn encode_maps(encoder: &mut DescriptorEncoder, maps: &[MapUsage]) -> fmt::Result {
    let of_maps = |value: fn(&MapUsage) -> u64| maps.iter().map(move |map| ([("map", map.name.as_str())], value(map)));
    gauge(encoder, "naru_map_entries", "Entries in use of a map", None, of_maps(|map| map.entries))?;
    gauge(encoder, "naru_map_max_entries", "Entries that fit in a map", None, of_maps(|map| map.max_entries))?;
    let help = "Memory that the kernel accounts for a map";
    gauge(encoder, "naru_map_memory", help, Some(&Unit::Bytes), of_maps(|map| map.memory_bytes))
}

fn encode_problems(encoder: &mut DescriptorEncoder, problems: &[Problem]) -> fmt::Result {
    let of_kind = |kind| problems.iter().filter(|problem| problem.kind == kind).count() as u64;
    let kinds = ProblemKind::ALL.into_iter().map(|kind| ([("kind", kind.name())], of_kind(kind)));
    gauge(encoder, "naru_problems", "What is not as the config wants it, by kind: see `naru status`", None, kinds)
}

fn encode_applies(encoder: &mut DescriptorEncoder, snapshot: &Snapshot) -> fmt::Result {
    let applied_at = snapshot.applied_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (name, help) = ("naru_config_applied_timestamp", "When a config was last applied");
    encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?.encode_gauge(&applied_at)?;
    let Applies { succeeded, failed } = snapshot.applies;
    let applies = [("success", succeeded), ("failure", failed)].map(|(result, count)| ([("result", result)], count));
    counter(encoder, "naru_applies", "Applies of a config since the daemon started", None, applies.into_iter())
}

/// The labels of a backend's series.
type Labels<'a> = [(&'static str, Cow<'a, str>); 2];

fn labels(vip: &str, backend: IpAddr) -> Labels<'_> {
    [("vip", vip.into()), ("backend", backend.to_string().into())]
}

/// Encodes a counter. The encoder adds the unit and `_total` to `name`.
fn counter<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    series: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    for (labels, value) in series {
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
    }
    Ok(())
}

/// Encodes a gauge. The encoder adds the unit to `name`.
fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    series: impl Iterator<Item = (L, V)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in series {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::api::types::Attached;

    fn snapshot() -> Snapshot {
        let counts = Counts { packets: 3, bytes: 180, new_flows: 1 };
        let known = BackendSample {
            address: "10.0.0.1".parse().unwrap(),
            counts,
            weight: Some(100),
            state: Some(lb_common::BackendState::Drain),
            is_by_hand: true,
            slots: 10,
            next_hop_up: true,
            flows: 2,
            held_slots: 5,
            part: Some(0.25),
            health: Some(crate::server::metrics::snapshot::HealthSample {
                up: false,
                flips: 3,
                probes: [20, 4, 1],
                took: 0.25,
            }),
        };
        let removed = BackendSample {
            address: "2001:db8::1".parse().unwrap(),
            counts: Counts::default(),
            weight: None,
            state: None,
            is_by_hand: false,
            slots: 0,
            next_hop_up: false,
            health: None,
            part: None,
            ..known
        };
        let interface = |name: &str, attached| Interface {
            name: name.into(),
            configured: true,
            link: None,
            attached,
            problem: None,
        };
        Snapshot {
            vips: vec![
                VipSample {
                    name: "web".into(),
                    counts,
                    is_ready: true,
                    drops: vec![DropStats { reason: "no_backend".into(), packets: 5 }],
                    backends: vec![known, removed],
                },
                VipSample {
                    name: "dns".into(),
                    counts: Counts::default(),
                    is_ready: false,
                    drops: Vec::new(),
                    backends: Vec::new(),
                },
            ],
            drops: vec![DropStats { reason: "no_backend".into(), packets: 7 }],
            losses: vec![LossStats { interface: "eth0".into(), cause: "transmit".into(), packets: 11 }],
            tracked: vec![TrackedStats { outcome: "promoted".into(), packets: 9 }],
            interfaces: vec![
                interface("eth0", Some(Attached { mode: "native".into(), reason: None })),
                interface("eth1", None),
            ],
            tracking: Tracking {
                max_flows: 66,
                flows: FlowEntries { established: 4, embryonic: 2 },
                expired: FlowEntries { established: 6, embryonic: 3 },
                refused: [("web".to_owned(), 1)].into(),
                cut: 2,
                settled_slots: 8,
                moving_slots: 5,
                sweep_us: Some(1500),
            },
            maps: vec![MapUsage { name: "SLOTS".into(), entries: 13, max_entries: 64, memory_bytes: 4096 }],
            problems: vec![Problem {
                kind: ProblemKind::Interface,
                what: "eth1".into(),
                reason: "it is taken".into(),
                since: 1,
            }],
            late_probes: 4,
            operations: 1,
            netlink_restarts: 2,
            applied_at: UNIX_EPOCH + Duration::from_millis(1500),
            applies: Applies { succeeded: 2, failed: 1 },
        }
    }

    #[test]
    fn a_scrape_names_everything_with_its_unit() {
        let mut text = String::new();
        encode(Arc::new(snapshot()), &mut text).unwrap();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            concat!("naru_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "naru_vip_packets_total{vip=\"web\"} 3",
            "naru_vip_packets_total{vip=\"dns\"} 0",
            "naru_vip_bytes_total{vip=\"web\"} 180",
            "naru_vip_bytes_total{vip=\"dns\"} 0",
            "naru_vip_new_flows_total{vip=\"web\"} 1",
            "naru_vip_new_flows_total{vip=\"dns\"} 0",
            "naru_vip_drops_total{vip=\"web\",reason=\"no_backend\"} 5",
            "naru_vip_ready{vip=\"web\"} 1",
            "naru_vip_ready{vip=\"dns\"} 0",
            "naru_backend_packets_total{vip=\"web\",backend=\"10.0.0.1\"} 3",
            "naru_backend_packets_total{vip=\"web\",backend=\"2001:db8::1\"} 0",
            "naru_backend_bytes_total{vip=\"web\",backend=\"10.0.0.1\"} 180",
            "naru_backend_bytes_total{vip=\"web\",backend=\"2001:db8::1\"} 0",
            "naru_backend_new_flows_total{vip=\"web\",backend=\"10.0.0.1\"} 1",
            "naru_backend_new_flows_total{vip=\"web\",backend=\"2001:db8::1\"} 0",
            "naru_backend_slots{vip=\"web\",backend=\"10.0.0.1\"} 10",
            "naru_backend_slots{vip=\"web\",backend=\"2001:db8::1\"} 0",
            "naru_backend_weight{vip=\"web\",backend=\"10.0.0.1\"} 100",
            "naru_backend_state{vip=\"web\",backend=\"10.0.0.1\",state=\"drain\",set_by=\"operator\"} 1",
            "naru_backend_up{vip=\"web\",backend=\"10.0.0.1\"} 0",
            "naru_backend_slow_start{vip=\"web\",backend=\"10.0.0.1\"} 0.25",
            "naru_health_probe_seconds{vip=\"web\",backend=\"10.0.0.1\"} 0.25",
            "naru_health_flips_total{vip=\"web\",backend=\"10.0.0.1\"} 3",
            "naru_health_probes_total{vip=\"web\",backend=\"10.0.0.1\",result=\"good\"} 20",
            "naru_health_probes_total{vip=\"web\",backend=\"10.0.0.1\",result=\"failed\"} 4",
            "naru_health_probes_total{vip=\"web\",backend=\"10.0.0.1\",result=\"void\"} 1",
            "naru_backend_next_hop_up{vip=\"web\",backend=\"10.0.0.1\"} 1",
            "naru_backend_next_hop_up{vip=\"web\",backend=\"2001:db8::1\"} 0",
            "naru_backend_flows{vip=\"web\",backend=\"10.0.0.1\"} 2",
            "naru_backend_flows{vip=\"web\",backend=\"2001:db8::1\"} 2",
            "naru_backend_held_slots{vip=\"web\",backend=\"10.0.0.1\"} 5",
            "naru_backend_held_slots{vip=\"web\",backend=\"2001:db8::1\"} 5",
            "naru_drops_total{reason=\"no_backend\"} 7",
            "naru_interface_losses_total{interface=\"eth0\",cause=\"transmit\"} 11",
            "naru_slots{state=\"settled\"} 8",
            "naru_slots{state=\"moving\"} 5",
            "naru_flows{table=\"established\"} 4",
            "naru_flows{table=\"embryonic\"} 2",
            "naru_max_flows 66",
            "naru_flow_expirations_total{table=\"established\"} 6",
            "naru_flow_expirations_total{table=\"embryonic\"} 3",
            "naru_flow_refusals_total{vip=\"web\"} 1",
            "naru_flow_cuts_total 2",
            "naru_sweep_duration_seconds 0.0015",
            "naru_flow_packets_total{outcome=\"promoted\"} 9",
            "naru_flow_promotions_total 9",
            "naru_interface_attached{interface=\"eth0\",mode=\"native\"} 1",
            "naru_interface_attached{interface=\"eth1\",mode=\"none\"} 0",
            "naru_map_entries{map=\"SLOTS\"} 13",
            "naru_map_max_entries{map=\"SLOTS\"} 64",
            "naru_map_memory_bytes{map=\"SLOTS\"} 4096",
            "naru_problems{kind=\"interface\"} 1",
            "naru_problems{kind=\"metrics\"} 0",
            "naru_problems{kind=\"packet-log\"} 0",
            "naru_problems{kind=\"config\"} 0",
            "naru_problems{kind=\"state\"} 0",
            "naru_problems{kind=\"socket\"} 0",
            "naru_problems{kind=\"netlink\"} 0",
            "naru_problems{kind=\"hash-seed\"} 0",
            "naru_problems{kind=\"health\"} 0",
            "naru_operations 1",
            "naru_health_late_probes_total 4",
            "naru_netlink_restarts_total 2",
            "naru_config_applied_timestamp_seconds 1.5",
            "naru_applies_total{result=\"success\"} 2",
            "naru_applies_total{result=\"failure\"} 1",
        ];
        assert_eq!(samples, expected, "\n{text}");
        assert!(text.contains("# UNIT naru_vip_bytes bytes\n") && text.ends_with("# EOF\n"), "{text}");
    }
}
