//! The interfaces, and how the task is that follows the kernel, for whoever asks.

use tokio::sync::watch;

use super::interface::InterfaceInfo;

/// How the task is that follows the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How often it has failed and was started anew.
    pub restarts: u64,
    /// Why nothing is followed at present; `None` where everything is.
    pub trouble: Option<String>,
}

/// Knows the interfaces, and how the task is. Never waits for anything but [`Handle::health_changed`].
#[derive(Debug)]
pub struct Handle {
    pub(super) interfaces: watch::Receiver<Vec<InterfaceInfo>>,
    pub(super) health: watch::Receiver<Health>,
}

impl Handle {
    /// How the task is that follows the kernel.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Waits until that is other than at the last call.
    pub async fn health_changed(&mut self) {
        if self.health.changed().await.is_err() {
            // The supervisor has ended, as it does with the runtime.
            std::future::pending::<()>().await;
        }
    }

    /// The interfaces as they are now, by ifindex. Their changes come as events.
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.interfaces.borrow().clone()
    }
}
