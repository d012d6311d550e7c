//! Prometheus' text: families, samples and histograms.

use std::fmt::{Display, Write};

/// Observations, by upper limits that do not change.
#[derive(Clone, Debug)]
pub struct Histogram {
    limits: &'static [f64],
    /// The last one is of what lies above all limits.
    counts: Box<[u64]>,
    sum: f64,
}

impl Histogram {
    pub fn new(limits: &'static [f64]) -> Self {
        Histogram { limits, counts: vec![0; limits.len() + 1].into(), sum: 0.0 }
    }

    pub fn observe(&mut self, value: f64) {
        let at = self.limits.partition_point(|limit| *limit < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A page of metrics in the making.
#[derive(Default)]
pub struct Page {
    pub text: String,
    name: &'static str,
}

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Begins a metric: `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &'static str, kind: &str, help: &str) -> &mut Self {
        self.name = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let mut count = 0;
        for (at, more) in histogram.counts.iter().enumerate() {
            count += more;
            let limit = histogram.limits.get(at).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.line("_bucket", labels, Some(&limit), count);
        }
        self.line("_sum", labels, None, histogram.sum);
        self.line("_count", labels, None, count);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, limit: Option<&str>, value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (at, (name, value)) in labels.iter().copied().chain(limit.map(|limit| ("le", limit))).enumerate() {
            let _ = write!(self.text, "{}{name}=\"", if at == 0 { '{' } else { ',' });
            for char in value.chars() {
                match char {
                    '\n' => self.text.push_str("\\n"),
                    '"' | '\\' => self.text.extend(['\\', char]),
                    _ => self.text.push(char),
                }
            }
            self.text.push('"');
        }
        let closed = if labels.is_empty() && limit.is_none() { "" } else { "}" };
        let _ = writeln!(self.text, "{closed} {value}");
    }
}
