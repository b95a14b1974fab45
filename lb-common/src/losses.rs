//! What is lost behind the data plane, by interface: frames that it sent and that a driver did not take.

/// Why a frame was lost behind the data plane; also the index of its count in [`Losses`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossCause {
    /// The driver could not send a frame back out by the interface that it came in by: the ring was full, or the frame
    /// was none that it sends. (Tracepoint `xdp_exception`.)
    Exception = 0,
    /// The driver took fewer frames than it was given at once: the ring was full, or there is nobody to take them.
    /// (Tracepoints `xdp_bulk_tx` and `xdp_devmap_xmit`.)
    Transmit = 1,
    /// A frame could not be given to another interface: it is down, or its MTU is too small. (Tracepoint
    /// `xdp_redirect_err`.)
    Redirect = 2,
}

impl LossCause {
    /// Every cause, in the order of their counts.
    pub const ALL: [Self; 3] = [Self::Exception, Self::Transmit, Self::Redirect];

    /// As metrics and messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exception => "exception",
            Self::Transmit => "transmit",
            Self::Redirect => "redirect",
        }
    }
}

/// Frames lost at one interface on one CPU, by [`LossCause`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses(pub [u64; LossCause::ALL.len()]);

/// Where the kernel that runs keeps what tells whose a device is, and whose are counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLayout {
    /// Offset of the interface index in `struct net_device`.
    pub ifindex_at: u32,
    /// Offset of the pointer to its network namespace there.
    pub namespace_at: u32,
    /// Offset of the inode number in `struct net`.
    pub inode_at: u32,
    /// Inode number of the network namespace whose devices are counted: indices are unique within one only.
    pub namespace: u32,
}

impl DeviceLayout {
    /// Entries that the map of losses has room for, one an interface.
    pub const INTERFACES: u32 = 1024;
}

super::pod!(Losses, DeviceLayout);

const _: () = assert!(size_of::<Losses>() == 24);
const _: () = assert!(size_of::<DeviceLayout>() == 16);
