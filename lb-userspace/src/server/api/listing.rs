//! What the flow table holds, by the names of the config. The controller publishes the names and the table; the walk
//! over a million entries is made beside it, on a thread that may block.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use lb_common::{FlowEntry, FlowKey, Tick};
use lb_ebpf::wire::TCP;

use crate::{
    api::flows::{Flow, FlowCount, FlowQuery, FlowTable, Flows},
    controller::{Error, View},
    dataplane::{self, Table},
    model::{Port, Protocol},
    tracking::rules::age,
};

/// A walk over the flow table to be made.
struct Walk {
    table: dataplane::FlowTable,
    /// Names of the VIPs whose flows are wanted, by id.
    vips: HashMap<u32, String>,
    /// Addresses of the backends whose flows are wanted, by id.
    backends: HashMap<u32, IpAddr>,
    query: FlowQuery,
}

/// Entries of the flow table.
pub fn flows(view: &View, query: FlowQuery) -> Result<Flows, Error> {
    Ok(Walk::of(view, query)?.list())
}

/// How many entries the flow table has.
pub fn counts(view: &View, query: FlowQuery) -> Result<Vec<FlowCount>, Error> {
    Ok(Walk::of(view, query)?.count())
}

impl Walk {
    /// A walk that finds what `query` asks for. The names are those of now: a flow of a VIP or backend that comes later
    /// is not found.
    fn of(view: &View, query: FlowQuery) -> Result<Self, Error> {
        let state = view.dataplane.state();
        let names = state.vips().iter().map(|(id, record)| (*id, record.name.as_str().to_owned()));
        let vips: HashMap<_, _> = names.filter(|(_, name)| query.vip.as_ref().is_none_or(|vip| vip == name)).collect();
        if let Some(name) = query.vip.as_deref().filter(|_| vips.is_empty()) {
            return Err(view.no_such_vip(name));
        }
        let of_vips = state.backends().iter().filter(|(_, entry)| vips.contains_key(&entry.vip));
        let addresses = of_vips.map(|(id, entry)| (*id, IpAddr::from(entry.address)));
        let backends: HashMap<_, _> =
            addresses.filter(|(_, address)| query.backend.is_none_or(|backend| backend == *address)).collect();
        if let Some(address) = query.backend.filter(|_| backends.is_empty()) {
            return Err(Error::NoSuchBackend { address, vip: query.vip });
        }
        Ok(Self { table: view.dataplane.flow_table(), vips, backends, query })
    }

    /// Lists what it finds, up to the query's limit.
    fn list(self) -> Flows {
        let limit = self.query.limit.unwrap_or(FlowQuery::DEFAULT_LIMIT) as usize;
        let mut flows: Vec<Flow> = Vec::new();
        let mut matched = 0;
        self.each(|found| {
            matched += 1;
            if flows.len() < limit {
                flows.push(found.flow());
            }
        });
        flows.sort_by(|a, b| {
            let order = |flow: &Flow| (flow.client, flow.client_port);
            a.vip.cmp(&b.vip).then_with(|| order(a).cmp(&order(b))).then_with(|| a.port.cmp(&b.port))
        });
        Flows { flows, matched }
    }

    /// Counts what it finds.
    fn count(self) -> Vec<FlowCount> {
        let mut counts: BTreeMap<(&str, IpAddr), [u64; 2]> = BTreeMap::new();
        self.each(|found| counts.entry((found.vip, found.backend)).or_default()[found.table as usize] += 1);
        let count = |((vip, backend), [established, embryonic]): ((&str, IpAddr), [u64; 2])| FlowCount {
            vip: vip.to_owned(),
            backend,
            established,
            embryonic,
        };
        counts.into_iter().map(count).collect()
    }

    /// Shows every entry that the query asks for to `visit`.
    fn each<'a>(&'a self, mut visit: impl FnMut(Found<'a>)) {
        for (spot, entry) in self.table.entries() {
            // Not before the entry was read, or it would be from the future.
            let now = dataplane::now();
            let table = Table::of(entry);
            if self.backends.contains_key(&entry.backend())
                && self.query.table.is_none_or(|wanted| wanted == shown(table))
                && let Some(found) = self.found(table, self.table.name(spot), entry, now)
            {
                visit(found);
            }
        }
    }

    /// The entry with its names, if the query asks for it.
    fn found(&self, table: Table, key: FlowKey, entry: FlowEntry, now: Tick) -> Option<Found<'_>> {
        let FlowQuery { vip: _, backend: _, client, client_port, table: _, state, limit: _ } = &self.query;
        let vip = self.vips.get(&key.vip())?;
        let backend = *self.backends.get(&entry.backend())?;
        let is_wanted = client.is_none_or(|range| range.contains(key.source.into()))
            && client_port.is_none_or(|port| port == key.source_port())
            && state.is_none_or(|state| state == entry.state().into());
        is_wanted.then_some(Found { table, key, entry, vip, backend, now })
    }
}

/// An entry with its names.
struct Found<'a> {
    table: Table,
    key: FlowKey,
    entry: FlowEntry,
    vip: &'a str,
    backend: IpAddr,
    now: Tick,
}

impl Found<'_> {
    fn flow(&self) -> Flow {
        let Self { table, key, entry, vip, backend, now } = self;
        let protocol = if key.protocol() == TCP { Protocol::Tcp } else { Protocol::Udp };
        let port = Port { protocol, port: Some(key.destination_port()) };
        Flow {
            client: key.source.into(),
            client_port: key.source_port(),
            vip: (*vip).to_owned(),
            port: port.to_string(),
            backend: *backend,
            table: shown(*table),
            state: entry.state().into(),
            idle_seconds: u64::from(age(*entry, *now)) * Tick::NANOSECONDS / 1_000_000_000,
        }
    }
}

fn shown(table: Table) -> FlowTable {
    match table {
        Table::Established => FlowTable::Established,
        Table::Embryonic => FlowTable::Embryonic,
    }
}
