//! Compression is recognised by its first bytes, as media types and file names may lie.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Reads gzip (any number of members), zstd (any number of frames) or plain bytes.
pub enum Decoder<'a, R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'a, BufReader<R>>>),
}

/// zstd windows up to 128 MiB, the most that zstd itself takes without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;

impl<R: Read> Decoder<'_, R> {
    pub fn new(input: R) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        let start = input.fill_buf()?;
        let zstd_magic = |s: &[u8]| {
            s.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
                || (s.len() >= 4 && s[0] & 0xf0 == 0x50 && s[1..4] == [0x2a, 0x4d, 0x18])
        };
        Ok(if start.starts_with(&[0x1f, 0x8b]) {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(input)))
        } else if zstd_magic(start) {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Decoder::Zstd(Box::new(decoder))
        } else {
            Decoder::Plain(input)
        })
    }
}

impl<R: Read> Read for Decoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(input) => input.read(buffer),
            Decoder::Gzip(input) => input.read(buffer),
            Decoder::Zstd(input) => input.read(buffer),
        }
    }
}
