//! Sparse files: GNU's old format and the three that GNU tar writes in pax headers (0.0, 0.1, 1.0).

use std::io::Read;

use super::{BLOCK, Reader, TarError, ascii};

/// More pieces than any real file has.
const MAX_PIECES: usize = 100_000;

/// Where the stored bytes belong.
pub(super) struct Map {
    pub real_size: u64,
    /// (offset, length), ascending and apart from each other.
    pieces: Vec<(u64, u64)>,
    position: u64,
    next: usize,
}

#[derive(Default)]
pub(super) struct PaxKeys {
    pub name: Option<Vec<u8>>,
    version: (u32, u32),
    real_size: Option<u64>,
    numbers: Vec<u64>,
    sparse: bool,
}

impl PaxKeys {
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.sparse = true;
        match key {
            b"major" => self.version.0 = ascii(value)?,
            b"minor" => self.version.1 = ascii(value)?,
            b"name" => self.name = (!value.contains(&0)).then(|| value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(ascii(value)?),
            b"offset" | b"numbytes" => self.numbers.push(ascii(value)?),
            b"map" => {
                for number in value.split(|b| *b == b',') {
                    self.numbers.push(ascii(number)?);
                }
            }
            _ => {}
        }
        (self.numbers.len() <= 2 * MAX_PIECES).then_some(())
    }
}

impl Map {
    fn new(real_size: u64, numbers: &[u64], stored: u64) -> Option<Map> {
        let pieces: Vec<(u64, u64)> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &pieces {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
        }
        let sound =
            numbers.len().is_multiple_of(2) && end <= real_size && sum == stored && real_size <= i64::MAX as u64;
        sound.then_some(Map { real_size, pieces, position: 0, next: 0 })
    }

    pub fn read(
        &mut self,
        buffer: &mut [u8],
        mut stored: impl FnMut(&mut [u8]) -> Result<usize, TarError>,
    ) -> Result<usize, TarError> {
        while self.pieces.get(self.next).is_some_and(|(offset, length)| self.position >= offset + length) {
            self.next += 1;
        }
        let (hole_end, data_end) = match self.pieces.get(self.next) {
            Some((offset, length)) => (*offset, offset + length),
            None => (self.real_size, self.real_size),
        };
        let hole = self.position < hole_end;
        let left = if hole { hole_end } else { data_end } - self.position;
        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = if hole {
            buffer[..n].fill(0);
            n
        } else {
            stored(&mut buffer[..n])?
        };
        self.position += n as u64;
        Ok(n)
    }
}

impl<R: Read> Reader<R> {
    /// Old GNU: four pieces in the header, more in blocks that follow it.
    pub(super) fn gnu_sparse(&mut self, header: &[u8; BLOCK]) -> Result<Map, TarError> {
        let mut numbers = Vec::new();
        self.gnu_pieces(&header[386..482], &mut numbers)?;
        let mut more = header[482] != 0;
        let real_size = self.number(&header[483..495])?;
        while more {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            self.gnu_pieces(&block[..504], &mut numbers)?;
            more = block[504] != 0;
            if numbers.len() > 2 * MAX_PIECES {
                return Err(self.malformed("a sparse file has too many pieces"));
            }
        }
        Map::new(real_size, &numbers, self.data).ok_or_else(|| self.malformed("a sparse map is malformed"))
    }

    fn gnu_pieces(&self, fields: &[u8], numbers: &mut Vec<u64>) -> Result<(), TarError> {
        for piece in fields.chunks_exact(24) {
            if piece[0] == 0 {
                break;
            }
            numbers.push(self.number(&piece[..12])?);
            numbers.push(self.number(&piece[12..])?);
        }
        Ok(())
    }

    pub(super) fn pax_sparse(&mut self, keys: &mut PaxKeys) -> Result<Option<Map>, TarError> {
        if !keys.sparse {
            return Ok(None);
        }
        let bad = |this: &Self| this.malformed("a sparse map is malformed");
        let real_size = keys.real_size.ok_or_else(|| bad(self))?;
        if keys.version.0 >= 1 {
            // The map stands in front of the data: decimal lines, padded to a block.
            let mut reading = Lines { block: [0; BLOCK], at: BLOCK };
            let count = reading.number(self)?;
            if count > MAX_PIECES as u64 {
                return Err(self.malformed("a sparse file has too many pieces"));
            }
            keys.numbers.clear();
            for _ in 0..count * 2 {
                let number = reading.number(self)?;
                keys.numbers.push(number);
            }
        }
        Map::new(real_size, &keys.numbers, self.data).map(Some).ok_or_else(|| bad(self))
    }
}

struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn number<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<u64, TarError> {
        let mut value: Option<u64> = None;
        loop {
            if self.at == BLOCK {
                if reader.data < BLOCK as u64 {
                    return Err(TarError::Truncated);
                }
                reader.fill(&mut self.block)?;
                reader.data -= BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            value = match (byte, value) {
                (b'\n', Some(value)) => return Ok(value),
                (b'0'..=b'9', value) => {
                    value.unwrap_or(0).checked_mul(10).and_then(|v| v.checked_add((byte - b'0').into()))
                }
                _ => None,
            };
            if value.is_none() {
                return Err(reader.malformed("a sparse map is malformed"));
            }
        }
    }
}
