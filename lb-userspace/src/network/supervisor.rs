//! Keeps the task running that follows the kernel: one that fails, or panics, is started anew with nothing in its
//! memory but the targets and the interfaces that the daemon knows of. Says so in the log and in [`Health`].

use std::{any::Any, future::Future, io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{Event, Health, InterfaceInfo, Pace, socket::Namespace, wanted::Wanted};

/// What outlives a task.
#[derive(Debug)]
pub(super) struct Shared {
    pub namespace: Arc<Namespace>,
    pub pace: Pace,
    pub targets: watch::Receiver<Wanted>,
    /// As the daemon sees them.
    pub interfaces: watch::Sender<Vec<InterfaceInfo>>,
    pub events: mpsc::Sender<Event>,
    pub health: watch::Sender<Health>,
}

impl Clone for Shared {
    fn clone(&self) -> Self {
        let Self { namespace, pace, targets, interfaces, events, health } = self;
        let (mut targets, namespace) = (targets.clone(), Arc::clone(namespace));
        // For the new task they are new.
        targets.mark_changed();
        let (interfaces, events, health) = (interfaces.clone(), events.clone(), health.clone());
        Self { namespace, pace: *pace, targets, interfaces, events, health }
    }
}

/// Runs the tasks that `start` makes, the next where one ends, until nobody listens. `start` is told whether the task
/// is the first.
pub(super) async fn keep_running<T>(shared: Shared, mut start: impl FnMut(&Shared, bool) -> T)
where
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut backoff = FIRST_BACKOFF;
    let mut is_first = true;
    loop {
        let begun = Instant::now();
        let why = match tokio::spawn(start(&shared, is_first)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => format!("a panic, which is a fault of naru: {}", text(panic.as_ref())),
                // The runtime ends.
                Err(_) => return,
            },
        };
        is_first = false;
        if begun.elapsed() > LONGEST_BACKOFF {
            backoff = FIRST_BACKOFF;
        }
        log::error!(
            "netlink: {why}; next hops and interfaces are not followed until it is begun anew, in {backoff:?}; the \
             data plane keeps what it has"
        );
        shared.health.send_modify(|health| {
            health.restarts += 1;
            health.trouble = Some(why);
        });
        tokio::select! {
            () = sleep(backoff) => {}
            () = shared.events.closed() => return,
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::{
        model::Target,
        network::{Handle, NextHops, Unresolved, task::Task},
    };

    const SOON: Duration = Duration::from_secs(20);

    /// What wants ways from a task of which the first ends as `fail` does, and the events.
    fn failing<T>(fail: T) -> (NextHops, Handle, mpsc::Receiver<Event>, tokio::task::JoinHandle<()>)
    where
        T: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (wanted, targets) = watch::channel(Wanted::default());
        // One that the daemon knows of and that went meanwhile.
        let (interfaces, known) = watch::channel(Vec::new());
        let (health_sender, health) = watch::channel(Health::default());
        let (events, receiver) = mpsc::channel(1024);
        let namespace = Arc::new(Namespace::current().unwrap());
        let pace = Pace::default();
        let shared = Shared { namespace, pace, targets, interfaces, events, health: health_sender };
        let mut fail = Some(Box::pin(fail));
        let start = move |shared: &Shared, is_first| {
            let (fail, shared) = (fail.take(), shared.clone());
            async move {
                match fail {
                    Some(fail) => fail.await,
                    None => Task::new(shared, None, is_first)?.serve().await,
                }
            }
        };
        let running = tokio::spawn(keep_running(shared, start));
        (NextHops::new(wanted), Handle { interfaces: known, health }, receiver, running)
    }

    async fn starts_over(fail: impl Future<Output = io::Result<()>> + Send + 'static, why: &str) {
        let (mut next_hops, handle, mut events, running) = failing(fail);
        let target = Target::new([127, 0, 0, 1].into(), false);
        let _waiting = next_hops.ask([target]);
        let mut health = handle.health.clone();
        let troubled = timeout(SOON, health.wait_for(|health| health.restarts == 1)).await.unwrap().unwrap().clone();
        assert!(troubled.trouble.as_ref().is_some_and(|trouble| trouble.contains(why)), "{troubled:?}");
        let mut restarted = false;
        let reported = async {
            loop {
                match events.recv().await {
                    Some(Event::Restarted) => restarted = true,
                    Some(Event::NextHop { target: of, asking, result }) if of == target => break (asking, result),
                    Some(_) => {}
                    None => panic!("the events ended"),
                }
            }
        };
        let (asking, result) = timeout(SOON, reported).await.unwrap();
        assert_eq!(result, Err(Unresolved::ThisHost { address: target.address }));
        assert!(next_hops.is_current(&target, asking) && restarted);
        assert_eq!(handle.health(), Health { restarts: 1, trouble: None });
        assert!(handle.interfaces().iter().any(|interface| interface.name == "lo"));
        drop(events);
        timeout(SOON, running).await.expect("it ends with its listener").unwrap();
    }

    #[tokio::test]
    async fn a_task_that_panics_is_started_anew_and_tells_everything_again() {
        starts_over(async { panic!("index out of {}", "bounds") }, "index out of bounds").await;
    }

    #[tokio::test]
    async fn a_task_that_fails_is_started_anew_and_tells_everything_again() {
        starts_over(async { Err(io::Error::other("no answer")) }, "no answer").await;
    }
}
