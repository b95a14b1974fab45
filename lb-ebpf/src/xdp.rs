//! A frame in an XDP program. The one place with raw packet pointers.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    programs::XdpContext,
};

use crate::frame::Frame;

/// The frame that an XDP program was called for.
pub struct XdpFrame<'a> {
    context: &'a XdpContext,
    /// Whether the program was loaded for frames of several buffers. A constant to the verifier.
    multi_buffer: bool,
}

impl<'a> XdpFrame<'a> {
    /// The frame of `context`.
    #[inline(always)]
    pub fn new(context: &'a XdpContext, multi_buffer: bool) -> Self {
        Self { context, multi_buffer }
    }

    /// The context, for helpers and logs.
    #[inline(always)]
    pub fn context(&self) -> &XdpContext {
        self.context
    }

    /// Index of the interface that the frame came in by.
    #[inline(always)]
    pub fn ingress(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    /// Moves the start of the frame by `bytes`, to the front when negative. Offsets count from the new start afterwards.
    /// Whether there was room.
    #[inline(always)]
    #[must_use]
    pub fn adjust_head(&self, bytes: i32) -> bool {
        // SAFETY: the helper checks the distance; pointers into the frame are taken anew for every access.
        unsafe { bpf_xdp_adjust_head(self.raw(), bytes) == 0 }
    }

    /// Writes two bytes at `offset`; whether the frame has them.
    #[inline(always)]
    #[must_use]
    pub fn set_half(&self, offset: usize, half: u16) -> bool {
        match self.pointer::<2>(offset) {
            // SAFETY: `pointer` checked that the frame has these two bytes.
            Some(pointer) => unsafe { pointer.cast::<u16>().write_unaligned(half) },
            None => return false,
        }
        true
    }

    /// Writes words at `offset`; whether the frame has room for them.
    #[inline(always)]
    #[must_use]
    pub fn set_words<const N: usize>(&self, offset: usize, words: [u32; N]) -> bool {
        let start = self.context.data() + offset;
        if start + 4 * N > self.context.data_end() {
            return false;
        }
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the check above covers all `N` words.
            unsafe { (start as *mut u32).add(index).write_unaligned(word) };
        }
        true
    }

    /// A pointer to `LEN` bytes at `offset`, where the frame has them.
    #[inline(always)]
    fn pointer<const LEN: usize>(&self, offset: usize) -> Option<*mut u8> {
        let start = self.context.data() + offset;
        (start + LEN <= self.context.data_end()).then_some(start as *mut u8)
    }

    #[inline(always)]
    fn raw(&self) -> *mut xdp_md {
        self.context.as_ptr().cast()
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.context.data_end() - self.context.data()
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        if !self.multi_buffer {
            return self.len();
        }
        // SAFETY: the helper only reads the context.
        unsafe { bpf_xdp_get_buff_len(self.raw()) as usize }
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        let pointer = self.pointer::<1>(offset)?;
        // SAFETY: `pointer` checked that the frame has this byte.
        Some(unsafe { pointer.read() })
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        let pointer = self.pointer::<2>(offset)?;
        // SAFETY: `pointer` checked that the frame has these two bytes.
        Some(unsafe { pointer.cast::<u16>().read_unaligned() })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let start = self.context.data() + offset;
        if start + 4 * N > self.context.data_end() {
            return None;
        }
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: the check above covers all `N` words.
            *word = unsafe { (start as *const u32).add(index).read_unaligned() };
        }
        Some(words)
    }
}

/// Ends a program object: the licence that the kernel asks for, and what a panic would do. The verifier refuses an object
/// in which a panic can be reached.
#[macro_export]
macro_rules! program_object {
    () => {
        #[cfg(target_arch = "bpf")]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}
