//! Work that every CPU takes a share of.

use std::thread;

/// What `work` makes of each of `items`, in their order. No thread is begun for fewer than `least` of them.
pub fn map<T: Sync, R: Send>(items: &[T], least: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(cpus).max(least).max(1);
    if items.len() <= share {
        return items.iter().map(work).collect();
    }
    let work = &work;
    thread::scope(|scope| {
        let shares = items.chunks(share).map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<_>>()));
        let workers: Vec<_> = shares.collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a share of the work does not panic")).collect()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn shares_come_together_in_order() {
        for (count, least) in [(0, 1), (1, 1), (7, 1), (1000, 1), (1000, 700), (1000, 5000)] {
            let items: Vec<u32> = (0..count).collect();
            assert_eq!(
                super::map(&items, least, |item| item * 2),
                items.iter().map(|item| item * 2).collect::<Vec<_>>()
            );
        }
    }
}
