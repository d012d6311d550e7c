//! Sets of completion indexes as intervals: `1,3-5,7`.

use std::fmt;

/// Ordered intervals, ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// What is below `completions`; parts that are no numbers are left out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let parts = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (i32, i32) = (first.parse().ok()?, last.parse().ok()?);
            (first < completions && first <= last).then(|| (first, last.min(completions - 1)))
        });
        Self::default().merged(parts)
    }

    pub fn with(&self, indexes: impl IntoIterator<Item = i32>) -> Self {
        self.merged(indexes.into_iter().map(|index| (index, index)))
    }

    pub fn and(&self, other: &Self) -> Self {
        self.merged(other.0.iter().copied())
    }

    fn merged(&self, more: impl IntoIterator<Item = (i32, i32)>) -> Self {
        let mut all: Vec<_> = self.0.iter().copied().chain(more).collect();
        all.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some(end) if first <= end.1.saturating_add(1) => end.1 = end.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many are in both.
    pub fn common(&self, other: &Self) -> i32 {
        let overlaps = self.0.iter().flat_map(|a| other.0.iter().map(move |b| a.1.min(b.1) - a.0.max(b.0) + 1));
        overlaps.filter(|overlap| *overlap > 0).sum()
    }

    /// The first `count` below `completions` that are missing.
    pub fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let starts = std::iter::once(0).chain(self.0.iter().map(|(_, last)| last + 1));
        let ends = self.0.iter().map(|(first, _)| *first).chain([completions]);
        starts.zip(ends).flat_map(|(start, end)| start..end.min(completions)).take(count).collect()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}
