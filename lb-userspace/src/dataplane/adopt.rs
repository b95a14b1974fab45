//! What a daemon begins with: the data plane that runs, of this version or another one, with whatever the daemon before
//! had begun and not finished.

use log::{info, warn};

use super::{
    Dataplane, Error,
    former::Former,
    generation::{Draft, Generation},
    globals::Globals,
    grace::grace,
    maps::{Carrying, Journal},
    place::{Place, remove_tree},
};
use crate::{
    fault,
    model::Config,
    plan::{Capacity, required_features},
};

impl Dataplane {
    /// Finishes what another daemon began, and puts the embedded program in place of another version's.
    ///
    /// # Errors
    ///
    /// The kernel refuses something.
    pub fn resume(&mut self, config: &Config) -> Result<(), Error> {
        let in_use = self.state.features_in_use();
        if !self.generation.program_is_current() || !self.state.features.contains(in_use) {
            info!("the pinned program is another version's: it is replaced");
            let features = in_use.with(required_features(config));
            self.replace_program(Globals { features, ..Globals::of(&self.state) })?;
        }
        self.settle()?;
        if let Err(error) = self.make_room_for_counters(config) {
            warn!("not everything is counted until the next start: {error}");
        }
        Ok(())
    }

    /// A pinned map may have fewer entries than this version needs, such as a counter for each flow outcome.
    fn make_room_for_counters(&mut self, config: &Config) -> Result<(), Error> {
        let number = self.generation.number();
        if self.generation.maps.have_room()? {
            return Ok(());
        }
        let Some(former) = Former::of_this_version(&self.place, number)? else { return Ok(()) };
        self.may_have_others = true;
        self.generation = succeed(&former, &self.place, number + 1, config)?;
        // Most of its maps are the same.
        drop(self.generation.maps.take_account(&self.state));
        self.former = Some(former);
        self.settle()
    }

    /// Everything runs this generation and nothing is left of others: what a handover ends with, and what is caught up
    /// on if it did not.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let program = self.generation.program()?;
        self.links.hand_to(program)?;
        if let Some(former) = &self.former {
            self.links.take_all(former.root(), program)?;
        }
        self.finish_carrying()?;
        if let Some(former) = self.former.take() {
            fault::point("remove the pins of another version");
            former.remove(&self.place)?;
        }
        if self.may_have_others {
            remove_all_but(&self.place, self.generation.number())?;
            self.may_have_others = false;
        }
        Ok(())
    }

    /// Takes over the counts of the maps before, if that is still to be done.
    fn finish_carrying(&self) -> Result<(), Error> {
        let journal = self.generation.maps.journal();
        let Some(carrying) = journal.carrying else { return Ok(()) };
        // What was on its way when the links changed hands still counts there.
        grace();
        fault::point("carry counts");
        match carrying {
            Carrying::Generation => {
                if let Some(old) = generation_before(&self.place, self.generation.number())? {
                    self.generation.maps.carry_from(&old.maps)?;
                    fault::point("carry flows once more");
                    self.generation.maps.carry_flows_from(&old.maps);
                }
            }
            Carrying::Former => {
                if let Some(former) = &self.former {
                    former.carry_to(&self.generation.maps_directory(), &self.generation.maps)?;
                }
            }
        }
        fault::point("note that all is carried");
        self.generation.maps.note(Journal { carrying: None, ..journal });
        Ok(())
    }
}

/// The generation to go on with, and what it takes over from, as far as that is not done. Where nothing runs yet, one
/// that is large enough for `config` and empty. `has_links`: interfaces run what is pinned for this version.
pub(super) fn adopt(place: &Place, has_links: bool, config: &Config) -> Result<(Generation, Option<Former>), Error> {
    let other = Former::of_another_version(place)?;
    let Some(own) = newest(place)? else {
        return match other {
            Some(other) => take_over(other, place, 1, config),
            None => {
                let capacity = Capacity::with_headroom(Capacity::needed(config), &config.node);
                let globals = Globals::for_config(config);
                Ok((Draft::new(place, 1, capacity, globals, |_| Ok(()))?.finish(None, false)?, None))
            }
        };
    };
    match other {
        Some(other) if !goes_on(&own, has_links, &other)? => take_over(other, place, own.number() + 1, config),
        other => {
            // What is carried over is that of the generation before, where maps of this version got more counters.
            let before = match own.maps.journal().carrying {
                Some(Carrying::Former) => Former::of_this_version(place, own.number() - 1)?,
                Some(Carrying::Generation) | None => None,
            };
            Ok((own, before.or(other)))
        }
    }
}

fn take_over(
    other: Former,
    place: &Place,
    number: u32,
    config: &Config,
) -> Result<(Generation, Option<Former>), Error> {
    info!("the data plane pinned under {} is taken over", other.root().display());
    Ok((succeed(&other, place, number, config)?, Some(other)))
}

/// Whether this version's generation was in use later than another version's. A taking over that was broken off before
/// the first interface is begun again, for a daemon of the other version may have gone on meanwhile.
fn goes_on(own: &Generation, has_links: bool, other: &Former) -> Result<bool, Error> {
    let other = other.rank()?;
    let nothing_runs = !has_links && !other.0;
    let is_broken_off = nothing_runs && own.maps.journal().carrying.is_some();
    Ok(!is_broken_off && (has_links, own.loaded_at()?) >= other)
}

/// A generation of today with all that `former` has. Its program runs on no interface yet.
pub(super) fn succeed(former: &Former, place: &Place, number: u32, config: &Config) -> Result<Generation, Error> {
    let globals = former.journal().globals();
    let globals = Globals { features: globals.features.with(required_features(config)), ..globals };
    let make = |capacity: Capacity| {
        let mut draft = Draft::new(place, number, capacity, globals, |pins| former.share(pins))?;
        fault::point("convert maps");
        former.copy_to(&draft.maps_directory(), &mut draft.maps)?;
        draft.maps.put_devices_in_use()?;
        fault::point("copy flows");
        let shut = former.copy_flows(&draft.maps)?;
        let made = draft.finish(Some(Carrying::Former), former.journal().applying)?;
        if let Some(shut) = shut {
            shut.keep();
        }
        Ok(made)
    };
    let capacity = former.capacity()?;
    let made = match make(capacity) {
        Err(Error::NoPlace { map }) => make(capacity.with_room_in(map)),
        made => made,
    };
    made.inspect_err(|_| {
        // The error at hand says more than that of cleaning up would.
        let _ = remove_tree(&place.generation(number));
    })
}

/// The newest whole generation. Those that were never finished are removed.
fn newest(place: &Place) -> Result<Option<Generation>, Error> {
    for number in place.generations()? {
        match Generation::open(place, number)? {
            Some(generation) => return Ok(Some(generation)),
            None => remove_tree(&place.generation(number))?,
        }
    }
    Ok(None)
}

/// The newest whole generation before that with `number`.
fn generation_before(place: &Place, number: u32) -> Result<Option<Generation>, Error> {
    for older in place.generations()?.into_iter().filter(|older| *older < number) {
        if let Some(generation) = Generation::open(place, older)? {
            return Ok(Some(generation));
        }
    }
    Ok(None)
}

fn remove_all_but(place: &Place, number: u32) -> Result<(), Error> {
    let mut others = place.generations()?.into_iter().filter(|other| *other != number);
    others.try_for_each(|other| {
        fault::point("remove a generation");
        remove_tree(&place.generation(other))
    })
}
