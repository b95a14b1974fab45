//! Steps of a plan, done to maps.

use std::collections::HashSet;

use super::{Error, egress::egress, grace::grace, maps::Maps};
use crate::{
    cpus, fault,
    plan::{State, Step},
};

/// Does the steps to the maps and to their mirror; flows that go on are in tables of `before`, or of `maps` themselves.
/// Returns the number of entries written.
pub(super) fn execute(
    maps: &mut Maps,
    state: &mut State,
    steps: &[Step],
    before: Option<&Maps>,
) -> Result<usize, Error> {
    let mut writes = 0;
    let mut devices = HashSet::new();
    let is_table = |step: &Step| matches!(step, Step::PutTable { .. });
    for run in steps.chunk_by(|a, b| is_table(a) && is_table(b)) {
        // What a sweep frees comes when it comes, and is no step of a change.
        if !matches!(run, [Step::FreeVip { .. } | Step::FreeBackend { .. }]) {
            fault::point("map write");
        }
        match run {
            [step] => writes += execute_one(maps, step, before, &mut devices)?,
            tables => writes += put_tables(maps, tables, before.unwrap_or(maps))?,
        }
        run.iter().for_each(|step| state.record(step));
    }
    Ok(writes)
}

/// Does one step; `devices` are the interfaces that packets can be redirected to by now.
fn execute_one(
    maps: &mut Maps,
    step: &Step,
    before: Option<&Maps>,
    devices: &mut HashSet<u32>,
) -> Result<usize, Error> {
    match step {
        Step::PutBackend { id, entry, fresh } => {
            if *fresh {
                maps.reset_backend_counters(*id)?;
            }
            if let Some(ifindex) = egress(entry)
                && devices.insert(ifindex)
            {
                // If it went this moment, packets are dropped and counted until netlink tells of it.
                maps.put_device(ifindex)?;
            }
            maps.put_backend(*id, *entry);
        }
        Step::PutTable { base, slots, owners, flows } => {
            return maps.put_table(*base, *slots, owners, flows.as_ref(), before.unwrap_or(maps));
        }
        Step::PutVip { id, record, fresh } => {
            if *fresh {
                maps.reset_vip_counters(*id)?;
            }
            maps.put_record(*id, *record);
        }
        Step::PutKey { key, route } => maps.put_key(*key, *route)?,
        Step::RemoveKey { key } => maps.remove_key(*key),
        Step::Grace => {
            grace();
            return Ok(0);
        }
        Step::FreeVip { id } => {
            maps.retire_drops(*id)?;
            maps.put_record(*id, Default::default());
        }
        Step::FreeBackend { id, successor } => {
            maps.move_backend_counters(*id, *successor)?;
            maps.put_backend(*id, Default::default());
        }
    }
    Ok(1)
}

/// Tables are independent of each other and most of the work of a first load: every CPU takes a share.
fn put_tables(maps: &Maps, tables: &[Step], before: &Maps) -> Result<usize, Error> {
    let put = |step: &Step| match step {
        Step::PutTable { base, slots, owners, flows } => maps.put_table(*base, *slots, owners, flows.as_ref(), before),
        _ => Ok(0),
    };
    cpus::map(tables, 1, put).into_iter().sum()
}
