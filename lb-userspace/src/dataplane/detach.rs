//! Takes the data plane off interfaces while no daemon runs.

use std::path::Path;

use super::{
    Error,
    links::detach_pinned,
    place::{interface_of, links_of, lock, names, pin_name, remove_tree, roots},
};

/// Removes everything that is pinned below `bpffs`, of whatever ABI: the links and with them the programs from their
/// interfaces, the maps and what they counted. Returns the interfaces.
///
/// # Errors
///
/// A daemon runs, or a pin cannot be removed.
pub fn detach_everything(bpffs: &Path) -> Result<Vec<String>, Error> {
    let mut interfaces = Vec::new();
    for root in roots(bpffs)? {
        let _lock = lock(&root)?;
        // Links first: no packet may meet a program whose maps go away.
        let links = links_of(&root);
        for pin in names(&links)? {
            detach_pinned(&links.join(&pin))?;
            interfaces.push(interface_of(&pin));
        }
        remove_tree(&root)?;
    }
    interfaces.sort();
    interfaces.dedup();
    Ok(interfaces)
}

/// Removes the data plane from one interface while no daemon runs. Returns whether it was there.
///
/// # Errors
///
/// A daemon runs, or the pin cannot be removed.
pub fn detach_interface(bpffs: &Path, interface: &str) -> Result<bool, Error> {
    let mut found = false;
    for root in roots(bpffs)? {
        let _lock = lock(&root)?;
        found |= detach_pinned(&links_of(&root).join(pin_name(interface)))?;
    }
    Ok(found)
}
