//! `apiserver_flowcontrol_*`, in upstream's names.

use std::sync::atomic::Ordering;

use super::demand::Claim;
use super::queues::Discipline;
use super::stats::Stats;
use super::{Fairness, Level};
use crate::metrics::{Histogram, Page};

/// Name, help, and the value.
type Row<T> = (&'static str, &'static str, fn(&T) -> f64);

const OF_LEVELS: [Row<(Claim, f64)>; 10] = [
    (
        "apiserver_flowcontrol_current_limit_seats",
        "[ALPHA] current derived number of execution seats available to each priority level",
        |(claim, _)| claim.current as f64,
    ),
    ("apiserver_flowcontrol_current_r", "[ALPHA] R(time of last change)", |(_, r)| *r),
    (
        "apiserver_flowcontrol_demand_seats_average",
        "[ALPHA] Time-weighted average, over last adjustment period, of demand_seats",
        |(claim, _)| claim.figures.average,
    ),
    (
        "apiserver_flowcontrol_demand_seats_high_watermark",
        "[ALPHA] High watermark, over last adjustment period, of demand_seats",
        |(claim, _)| claim.figures.high,
    ),
    ("apiserver_flowcontrol_demand_seats_smoothed", "[ALPHA] Smoothed seat demands", |(claim, _)| {
        claim.figures.smoothed
    }),
    (
        "apiserver_flowcontrol_demand_seats_stdev",
        "[ALPHA] Time-weighted standard deviation, over last adjustment period, of demand_seats",
        |(claim, _)| claim.figures.deviation,
    ),
    (
        "apiserver_flowcontrol_lower_limit_seats",
        "[ALPHA] Configured lower bound on number of execution seats available to each priority level",
        |(claim, _)| claim.bounds.lower as f64,
    ),
    (
        "apiserver_flowcontrol_nominal_limit_seats",
        "[BETA] Nominal number of execution seats configured for each priority level",
        |(claim, _)| claim.bounds.nominal as f64,
    ),
    ("apiserver_flowcontrol_target_seats", "[ALPHA] Seat allocation targets", |(claim, _)| claim.target()),
    (
        "apiserver_flowcontrol_upper_limit_seats",
        "[ALPHA] Configured upper bound on number of execution seats available to each priority level",
        |(claim, _)| claim.bounds.upper as f64,
    ),
];

const OF_SCHEMAS: [Row<Stats>; 4] = [
    (
        "apiserver_flowcontrol_current_executing_requests",
        "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
        |stats| stats.executing as f64,
    ),
    (
        "apiserver_flowcontrol_current_executing_seats",
        "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
        |stats| stats.seats_in_use as f64,
    ),
    (
        "apiserver_flowcontrol_current_inqueue_requests",
        "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
        |stats| stats.waiting as f64,
    ),
    (
        "apiserver_flowcontrol_current_inqueue_seats",
        "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem",
        |stats| stats.seats_waiting as f64,
    ),
];

/// Name, help, the label that tells a schema's histograms apart, and these by its values.
type Histograms = (&'static str, &'static str, &'static str, fn(&Stats) -> Vec<(&'static str, &Histogram)>);

const HISTOGRAMS: [Histograms; 4] = [
    (
        "apiserver_flowcontrol_request_execution_seconds",
        "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
        "type",
        |stats| vec![("regular", &stats.execution[0]), ("watch", &stats.execution[1])],
    ),
    (
        "apiserver_flowcontrol_request_queue_length_after_enqueue",
        "[ALPHA] Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
        "",
        |stats| vec![("", &stats.length)],
    ),
    (
        "apiserver_flowcontrol_request_wait_duration_seconds",
        "[BETA] Length of time a request spent waiting in its queue",
        "execute",
        |stats| vec![("false", &stats.waits[0]), ("true", &stats.waits[1])],
    ),
    (
        "apiserver_flowcontrol_work_estimated_seats",
        "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
        "",
        |stats| vec![("", &stats.seats)],
    ),
];

impl Level {
    fn each_schema(&self, mut visit: impl FnMut([(&str, &str); 2], &Stats)) {
        for (schema, stats) in &self.state.queues().stats {
            visit([("flow_schema", schema), ("priority_level", &self.spec.name)], stats);
        }
    }
}

impl Fairness {
    pub fn metrics(&self, page: &mut Page) {
        let mut levels = self.config().levels.clone();
        levels.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        for (name, help, value) in OF_LEVELS {
            page.family(name, "gauge", help);
            for level in &levels {
                let queues = level.state.queues();
                let exempt = level.spec.discipline == Discipline::Exempt;
                let (figures, current) = (queues.demand.figures, queues.limit());
                let claim = Claim { exempt, bounds: level.bounds, figures, current };
                page.sample(&[("priority_level", &level.spec.name)], value(&(claim, queues.r)));
            }
        }
        let fraction = f64::from_bits(self.fair_fraction.load(Ordering::Relaxed));
        let help = "[ALPHA] Fair fraction of server's concurrency to allocate to each priority level that can use it";
        page.family("apiserver_flowcontrol_seat_fair_frac", "gauge", help).sample(&[], fraction);
        for (name, help, value) in OF_SCHEMAS {
            page.family(name, "gauge", help);
            for level in &levels {
                level.each_schema(|labels, stats| page.sample(&labels, value(stats)));
            }
        }
        let help = "[BETA] Number of requests executed by API Priority and Fairness subsystem";
        page.family("apiserver_flowcontrol_dispatched_requests_total", "counter", help);
        for level in &levels {
            level.each_schema(|labels, stats| page.sample(&labels, stats.dispatched));
        }
        let help = "[BETA] Number of requests rejected by API Priority and Fairness subsystem";
        page.family("apiserver_flowcontrol_rejected_requests_total", "counter", help);
        for level in &levels {
            level.each_schema(|[schema, level], stats| {
                for (reason, count) in &stats.rejected {
                    page.sample(&[schema, level, ("reason", reason)], count);
                }
            });
        }
        for (name, help, label, histograms) in HISTOGRAMS {
            page.family(name, "histogram", help);
            for level in &levels {
                level.each_schema(|[schema, level], stats| {
                    for (value, histogram) in histograms(stats).into_iter().filter(|(_, h)| h.count() > 0) {
                        let labels = [schema, level, (label, value)];
                        page.histogram(if label.is_empty() { &labels[..2] } else { &labels }, histogram);
                    }
                });
            }
        }
    }
}
