//! A hash of words, for tables and choices that must come out the same on every host and in every version.

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, in Stafford's variant 13): each bit of the input
/// moves each bit of the output with a probability of about one half.
pub const fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
