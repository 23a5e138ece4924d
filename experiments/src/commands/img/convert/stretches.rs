//! The input as long stretches whose ends fit the target's clusters.

use super::input::{Content, Input, Part};
use std::collections::VecDeque;
use std::ops::Range;

/// Goes through an input from its start.
pub struct Stretches<'a> {
    input: &'a Input<'a>,
    /// How far the input has been asked.
    asked: u64,
    joining: Joining,
}

impl<'a> Stretches<'a> {
    /// Of all of `input`. Stretches begin and end at multiples of `unit` bytes, or at the end of the input; a unit that
    /// does not hold one thing as a whole is data.
    pub fn of(input: &'a Input<'a>, unit: u64) -> Self {
        Stretches { input, asked: 0, joining: Joining::of(unit, input.size()) }
    }

    /// The next stretch, if there is one.
    ///
    /// # Errors
    /// If the tables of an image cannot be read.
    pub async fn next(&mut self) -> anyhow::Result<Option<Part>> {
        loop {
            if let Some(stretch) = self.joining.take(self.asked) {
                return Ok(Some(stretch));
            }
            let parts = self.input.parts(self.asked).await?;
            let Some(last) = parts.last() else { return Ok(None) };
            self.asked = last.range.end;
            parts.iter().for_each(|part| self.joining.add(part));
        }
    }
}

/// Makes stretches of parts.
struct Joining {
    unit: u64,
    size: u64,
    /// No data, and perhaps not all of it.
    growing: Option<Part>,
    /// Complete ones, but for the last.
    stretches: VecDeque<Part>,
}

impl Joining {
    fn of(unit: u64, size: u64) -> Self {
        Joining { unit, size, growing: None, stretches: VecDeque::new() }
    }

    fn add(&mut self, part: &Part) {
        match &mut self.growing {
            Some(growing) if growing.content == part.content => growing.range.end = part.range.end,
            growing => {
                let complete = growing.take();
                complete.into_iter().for_each(|part| self.align(&part));
                match part.content {
                    Content::Data => self.push(part.range.clone(), Content::Data),
                    _ => self.growing = Some(part.clone()),
                }
            }
        }
        if part.range.end == self.size {
            self.growing.take().into_iter().for_each(|part| self.align(&part));
        }
    }

    /// Keeps whole units of a part; what is left of it is data.
    fn align(&mut self, part: &Part) {
        let range = &part.range;
        let end = if range.end == self.size { self.size } else { range.end / self.unit * self.unit };
        let inner = range.start.next_multiple_of(self.unit)..end;
        if inner.is_empty() {
            return self.push(range.clone(), Content::Data);
        }
        self.push(range.start..inner.start, Content::Data);
        self.push(inner.clone(), part.content);
        self.push(inner.end..range.end, Content::Data);
    }

    fn push(&mut self, range: Range<u64>, content: Content) {
        if range.is_empty() {
            return;
        }
        match self.stretches.back_mut() {
            Some(last) if last.content == content => last.range.end = range.end,
            _ => self.stretches.push_back(Part { range, content }),
        }
    }

    /// The first stretch, once it is known where it ends; what was added ends at `end`.
    fn take(&mut self, end: u64) -> Option<Part> {
        let is_complete = self.stretches.len() > 1 || end == self.size;
        if is_complete { self.stretches.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Content::{Backing, Data, Zeroes};

    fn joined(unit: u64, parts: &[(u64, Content)]) -> Vec<(u64, Content)> {
        let size = parts.last().map_or(0, |(end, _)| *end);
        let mut joining = Joining::of(unit, size);
        let mut start = 0;
        for (end, content) in parts {
            joining.add(&Part { range: start..*end, content: *content });
            start = *end;
        }
        let mut at = 0;
        std::iter::from_fn(|| joining.take(size))
            .map(|part| {
                assert_eq!(part.range.start, at);
                at = part.range.end;
                (at, part.content)
            })
            .collect()
    }

    #[test]
    fn only_whole_units_are_no_data() {
        let parts = [(10, Zeroes), (20, Data), (95, Zeroes), (97, Data), (130, Zeroes)];
        let expected = [(32, Data), (80, Zeroes), (112, Data), (130, Zeroes)];
        assert_eq!(joined(16, &parts), expected);
        assert_eq!(joined(1, &parts), parts);
        assert_eq!(joined(64, &parts), [(128, Data), (130, Zeroes)]);
        assert_eq!(joined(16, &[(40, Zeroes)]), [(40, Zeroes)]);
        assert_eq!(joined(16, &[(10, Zeroes), (40, Zeroes)]), [(40, Zeroes)]);
        assert_eq!(joined(16, &[(32, Zeroes), (48, Backing)]), [(32, Zeroes), (48, Backing)]);
        assert_eq!(joined(16, &[(24, Zeroes), (48, Backing)]), [(16, Zeroes), (32, Data), (48, Backing)]);
        assert_eq!(joined(16, &[]), []);
    }
}
