//! The sweeper: walks the flow table beside everything else, takes out what has ended, and finds out which slots and
//! which backends the rest still needs, all by [`Rules`]; then it says what each VIP may enter until the next sweep.
//!
//! A sweep works on a copy of what it must know ([`Sweep`]), on any thread, and changes nothing but flow entries and
//! allowances. What it found ([`Swept`]) is applied between two changes ([`Upkeep`](super::Upkeep)): slots age and are
//! settled, and what the config no longer has is freed. All that it needs is in the maps, so that it makes no difference
//! which daemon began.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{FlowEntry, Tick};
use lb_ebpf::rules::flow_table::Placed;

use super::{
    Error, Swept,
    rules::Rules,
    shares::{Tracked, allowances},
    swept::Left,
};
use crate::dataplane::{self, FlowTable, Intakes, Slots, Spot, Sweeps, Table, Wait};

/// How long a backend is down before its silent connections are given up: should it come back later, its own side of
/// them is most likely gone.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// Every sweep looks at one group in so many for lines that entries went past and that none is past any more: to find
/// that out takes the names of all entries of a group. Until then a packet reads one line more than it must.
const SPILLED_TURNS: u64 = 16;

/// The clock is read once for so many groups, which a sweep walks through in less than a millisecond.
const GROUPS_A_TICK: u32 = 1024;

/// A walk over the flow table to be made.
pub struct Sweep {
    /// Of the generation whose table this is.
    generation: u32,
    /// Sweeps of this daemon are numbered.
    number: u64,
    table: FlowTable,
    slots: Arc<Slots>,
    sweeps: Arc<Sweeps>,
    intakes: Arc<Intakes>,
    /// What the first grace period of the sweep is for, besides flows.
    wait: Wait,
    rules: Rules,
    /// Whether anything is to be freed, if the sweep finds no flow of it.
    frees: bool,
    /// What the one before found.
    before: Option<Arc<Swept>>,
    cpus: u64,
}

impl Sweep {
    /// A walk over the table of `dataplane`, after the sweep that found `before`.
    pub(super) fn new(
        number: u64,
        dataplane: &dataplane::View,
        wait: Wait,
        rules: Rules,
        before: Option<Arc<Swept>>,
    ) -> Self {
        Self {
            generation: dataplane.generation(),
            number,
            table: dataplane.flow_table(),
            slots: Arc::clone(dataplane.slots()),
            sweeps: Arc::clone(dataplane.sweeps()),
            intakes: Arc::clone(dataplane.intakes()),
            wait,
            rules,
            frees: dataplane.state().has_removed(),
            before: before.filter(|before| before.generation == dataplane.generation()),
            cpus: dataplane::online_cpus(),
        }
    }

    /// Makes it, on this thread, for as long as it takes.
    ///
    /// # Errors
    ///
    /// The kernel does not let a counter be read.
    pub fn run(self) -> Result<Swept, Error> {
        // Packets that were on their way when slots were last written have entered their flows, and left the places of slots
        // that nobody names any more; and whoever found an entry that an earlier sweep took out has left.
        dataplane::grace();
        let started = Instant::now();
        let (backends, vips) = (self.rules.backends(), self.rules.vips());
        let mut swept = Swept::new(self.generation, self.number, self.slots.entries(), backends, vips);
        swept.wait = self.wait;
        let (nothing, mut now) = (Left::default(), dataplane::now());
        let before = self.before.as_ref().map_or(&nothing, |swept| &swept.left);
        // Those of other turns stay as they were noted.
        swept.left.spilled = before.spilled.clone();
        for group in 0..self.table.groups() {
            if group.is_multiple_of(GROUPS_A_TICK) {
                now = dataplane::now();
            }
            self.walk(group, now, before, &mut swept);
        }
        self.allow(&mut swept)?;
        swept.elapsed = started.elapsed();
        if self.frees {
            // Packets that found an entry before it was taken out have left.
            dataplane::grace();
        }
        Ok(swept)
    }

    /// Looks through a group.
    fn walk(&self, group: u32, now: Tick, before: &Left, swept: &mut Swept) {
        self.table.each_in(group, |spot, placed| match placed {
            Placed::Gone => self.table.free(spot),
            Placed::Claimed(entry) => {
                if swept.left.is_abandoned(before, spot, entry) {
                    self.table.remove(spot, entry);
                }
            }
            Placed::Entry(entry) => self.look(spot, entry, now, swept),
        });
        if u64::from(group) % SPILLED_TURNS == self.number % SPILLED_TURNS {
            self.clear_spilled(group, swept);
        }
    }

    fn look(&self, spot: Spot, entry: FlowEntry, now: Tick, swept: &mut Swept) {
        match self.rules.entry_after(entry, now) {
            None => {
                if self.table.remove(spot, entry) {
                    if self.rules.is_cut(entry) {
                        *swept.cut.entry(entry.backend()).or_default() += 1;
                        self.sweeps.add_cut(1);
                    } else {
                        self.sweeps.add_deleted(Table::of(entry), 1);
                        swept.expired += 1;
                    }
                }
            }
            Some(kept) => {
                // If it fails, a packet came meanwhile: the next sweep sees what it wrote.
                if kept != entry {
                    let _ = self.table.replace(spot, entry, kept);
                }
                self.rules.note(kept, || self.table.name(spot), |index| self.slots.at(index), swept);
            }
        }
    }

    /// Takes the mark from lines of a group that no entry is past any more.
    fn clear_spilled(&self, group: u32, swept: &mut Swept) {
        for (line, count) in (0..).zip(self.table.unpassed(group)) {
            let was = swept.left.spilled.remove(&(group, line));
            if count > 0 && was == Some(count) {
                self.table.clear_spilled(group, line, count);
            } else if count > 0 {
                swept.left.spilled.insert((group, line), count);
            }
        }
    }

    /// Says what each VIP may enter from now on.
    fn allow(&self, swept: &mut Swept) -> Result<(), Error> {
        let (mut tracked, all_refused) = (Vec::new(), self.intakes.all_refused()?);
        for vip in self.rules.tracked() {
            let refused = all_refused.get(vip as usize).copied().unwrap_or(0);
            swept.refused.insert(vip, refused);
            let entries = swept.by_vip.get(vip as usize).copied().unwrap_or(0);
            let (entries_before, refused_before) = self.before.as_ref().map_or((0, 0), |before| {
                let entries = before.by_vip.get(vip as usize).copied().unwrap_or(0);
                (entries, before.refused.get(&vip).copied().unwrap_or(0))
            });
            let is_active = entries > entries_before || refused != refused_before;
            tracked.push(Tracked { vip, entries, is_active });
        }
        for (vip, flows) in allowances(self.table.room().into(), self.cpus, &tracked) {
            self.intakes.allow(vip, flows);
        }
        Ok(())
    }
}
