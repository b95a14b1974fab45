//! Access to the bytes of a frame: the one way in which parsers read, in the kernel and on the host.

/// Bytes that may end anywhere. Every read is checked against the end, and gives `None` beyond it. Numbers come as they
/// stand in the frame, that is, in network byte order.
pub trait Frame {
    /// Length in bytes that reads can reach.
    fn len(&self) -> usize;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length in bytes of the whole frame, where some of it lies beyond the reach of reads.
    fn total_len(&self) -> usize {
        self.len()
    }

    /// The byte at `offset`.
    fn byte(&self, offset: usize) -> Option<u8>;

    /// The two bytes at `offset`.
    fn half(&self, offset: usize) -> Option<u16>;

    /// The `4 * N` bytes at `offset`.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;
}

impl Frame for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }

    fn half(&self, offset: usize) -> Option<u16> {
        let bytes = self.get(offset..)?.first_chunk()?;
        Some(u16::from_ne_bytes(*bytes))
    }

    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let bytes = self.get(offset..)?.get(..4 * N)?;
        let (words, _) = bytes.as_chunks();
        let mut read = [0; N];
        for (word, bytes) in read.iter_mut().zip(words) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(read)
    }
}

/// Byte `index` of a word read from a frame.
#[inline(always)]
pub const fn byte_of(word: u32, index: u32) -> u8 {
    (u32::from_be(word) >> (24 - 8 * index)) as u8
}

/// The first or the second half of a word read from a frame, in host byte order.
#[inline(always)]
pub const fn half_of(word: u32, index: u32) -> u16 {
    (u32::from_be(word) >> (16 - 16 * index)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_where_the_frame_does() {
        let frame: &[u8] = &[1, 2, 3, 4, 5];
        assert_eq!(frame.byte(4), Some(5));
        assert_eq!(frame.byte(5), None);
        assert_eq!(frame.half(3), Some(u16::from_ne_bytes([4, 5])));
        assert_eq!(frame.half(4), None);
        assert_eq!(frame.words::<1>(1), Some([u32::from_ne_bytes([2, 3, 4, 5])]));
        assert_eq!(frame.words::<1>(2), None);
        assert_eq!(frame.words::<1>(usize::MAX), None);
    }

    #[test]
    fn parts_of_words_count_from_the_start_of_the_frame() {
        let [word] = [1u8, 2, 3, 4].as_slice().words::<1>(0).unwrap();
        assert_eq!([0, 1, 2, 3].map(|index| byte_of(word, index)), [1, 2, 3, 4]);
        assert_eq!([0, 1].map(|index| half_of(word, index)), [0x0102, 0x0304]);
    }
}
