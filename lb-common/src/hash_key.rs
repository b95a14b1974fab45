//! The key of the flow hash.

use core::fmt;

use super::pod;

/// What makes the flow hash of one site another than that of all others: words that nobody else knows, read-only data
/// of the loaded program.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u64; Self::WORDS]);

impl HashKey {
    /// How many words the hash takes.
    pub const WORDS: usize = 12;

    /// The key where there is no seed: anyone knows it. It is what an empty seed expands to (ADR 13).
    pub const PUBLIC: Self = Self([
        0x9b59_fb7d_e308_13c7,
        0xc3b2_e6f2_7b0a_9957,
        0xe723_12af_c7da_4b6c,
        0x1cd8_3972_fbe6_f2b4,
        0x9363_e0bc_f528_09a5,
        0xab78_169f_8694_0074,
        0x2137_dced_37d5_46f9,
        0x83d4_91b4_c072_25bf,
        0x3b40_690a_7baa_71a5,
        0x8a25_393c_9dc6_544d,
        0x7bee_18d1_0a1a_a47c,
        0x7268_7f36_a640_700f,
    ]);
}

impl Default for HashKey {
    fn default() -> Self {
        Self::PUBLIC
    }
}

/// Never shows the words.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::PUBLIC { "HashKey(public)" } else { "HashKey(secret)" })
    }
}

const _: () = assert!(size_of::<HashKey>() == 96);
pod!(HashKey);
