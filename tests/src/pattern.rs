//! Bytes that a transfer carries: known at every offset, so that a byte lost, doubled or changed is noticed.

use std::sync::LazyLock;

/// Length of the repeated block in bytes: a prime, so that no segment or page boundary falls together with it.
const PERIOD: usize = 65_521;

/// The block twice, so that any chunk up to its length is one slice.
static TWICE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Marsaglia's xorshift32: any sequence without short periods will do, as long as both ends have it.
    let mut state = 0x6e61_7275_u32;
    let block = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    });
    block.take(PERIOD).collect::<Vec<_>>().repeat(2)
});

/// The bytes from `offset` on: at most `limit` of them, and at least one where `limit` is not 0.
pub fn chunk(offset: u64, limit: u64) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    let len = limit.min(PERIOD as u64) as usize;
    &TWICE[start..start + len]
}

/// The offset of the first byte of `bytes`, which were received from `offset` on, that is not what was sent.
pub fn first_difference(offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut at = offset;
    for piece in bytes.chunks(PERIOD) {
        let expected = chunk(at, piece.len() as u64);
        if piece != expected {
            let same = piece.iter().zip(expected).take_while(|(got, sent)| got == sent).count();
            return Some(at + same as u64);
        }
        at += piece.len() as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let mut whole = Vec::new();
        while whole.len() < 300_000 {
            whole.extend_from_slice(chunk(whole.len() as u64, 7_919));
        }
        assert_eq!(first_difference(0, &whole), None);
        assert_eq!(first_difference(100_000, &whole[100_000..]), None);
    }

    #[test]
    fn a_changed_and_a_lost_byte_are_found() {
        let mut whole = [chunk(0, u64::MAX), chunk(PERIOD as u64, u64::MAX)].concat();
        whole[70_000] ^= 1;
        assert_eq!(first_difference(0, &whole), Some(70_000));
        whole[70_000] ^= 1;
        whole.remove(5);
        assert!(first_difference(0, &whole).is_some_and(|at| at < 10));
    }
}
