//! `/debug/api_priority_and_fairness/`: upstream's tables of levels, queues and requests.

use std::time::SystemTime;

use super::queues::{About, Nanos};
use super::{Fairness, Level, nanos};

impl Fairness {
    /// The table that a path of `/debug/api_priority_and_fairness/` asks for; `now` is the time of day.
    pub fn dump(&self, table: &str, details: bool, now: SystemTime) -> Option<String> {
        let mut levels = self.config().levels.clone();
        levels.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let started = now - std::time::Duration::from_nanos(nanos(self.started));
        let rows: Vec<Vec<String>> = match table {
            "dump_priority_levels" => levels.iter().map(|level| priority_level(level)).collect(),
            "dump_queues" => levels.iter().flat_map(|level| queues(level)).collect(),
            "dump_requests" => levels.iter().flat_map(|level| requests(level, details, started)).collect(),
            _ => return None,
        };
        const LEVELS: &[&str] = &[
            "PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
            "DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests",
        ];
        const QUEUES: &[&str] = &[
            "PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
            "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum",
        ];
        const REQUESTS: &[&str] = &[
            "PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher",
            "ArriveTime", "InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime", "UserName", "Verb",
            "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource",
        ];
        let head = match table {
            "dump_priority_levels" => LEVELS,
            "dump_queues" => QUEUES,
            _ if details => REQUESTS,
            _ => &REQUESTS[..10],
        };
        Some(tabulate(head, &rows))
    }
}

fn tabulate(head: &[&str], rows: &[Vec<String>]) -> String {
    const WIDTH_MIN: usize = 8;
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        (cells.chain([head[at].len()]).max().unwrap_or(0) + 2).max(WIDTH_MIN)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let head = head.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        for (at, cell) in row.iter().enumerate() {
            match at + 1 == row.len() {
                true => out.push_str(&format!("{cell}\n")),
                false => out.push_str(&format!("{:1$}", format!("{cell},"), widths[at])),
            }
        }
    }
    out
}

fn priority_level(level: &Level) -> Vec<String> {
    let queues = level.state.queues();
    let totals = &queues.totals;
    let active = queues.queues.iter().filter(|queue| !queue.waiting.is_empty()).count();
    vec![
        level.spec.name.clone(),
        active.to_string(),
        queues.is_idle().to_string(),
        level.is_quiescing.to_string(),
        totals.waiting.to_string(),
        totals.executing.to_string(),
        totals.dispatched.to_string(),
        totals.rejected.to_string(),
        "0".to_owned(),
        totals.cancelled.to_string(),
    ]
}

fn queues(level: &Level) -> Vec<Vec<String>> {
    let queues = level.state.queues();
    let row = |(at, queue): (usize, &super::queues::Queue<_>)| {
        let waiting = queue.seats_waiting();
        vec![
            level.spec.name.clone(),
            at.to_string(),
            queue.waiting.len().to_string(),
            queue.executing.to_string(),
            queue.seats_in_use.to_string(),
            format!("{:.8}ss", queue.next_r),
            waiting.to_string(),
            waiting.to_string(),
            format!("{:.8}ss", super::queues::work(waiting)),
        ]
    };
    queues.queues.iter().enumerate().map(row).collect()
}

/// Who sent a request is known of those that had to wait.
fn requests(level: &Level, details: bool, started: SystemTime) -> Vec<Vec<String>> {
    let queues = level.state.queues();
    let none = About::default();
    let time = |at: Nanos| {
        let since = (started + std::time::Duration::from_nanos(at)).duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(String::new(), |s| schema::time::format_micro(s.as_secs() as i64, s.subsec_nanos()))
    };
    let row = |slot: usize, places: [i64; 2], seats: u64, about: &About, arrived: Nanos, begun: Option<Nanos>| {
        let info = &about.info;
        let mut row = vec![
            level.spec.name.clone(),
            queues.stats.get(slot).map_or(String::new(), |(name, _)| name.to_string()),
            places[0].to_string(),
            places[1].to_string(),
            about.flow.clone(),
            time(arrived),
            seats.to_string(),
            "0".to_owned(),
            "0s".to_owned(),
            begun.map_or("0001-01-01T00:00:00Z".to_owned(), time),
        ];
        if details {
            let group_version = crate::kind::join_group_version(&info.api_group, &info.api_version);
            row.extend([&about.user, &info.verb, &info.path, &info.namespace, &info.name].map(String::clone));
            row.extend([group_version, info.resource.clone(), info.subresource.clone()]);
        }
        row
    };
    let mut rows = Vec::new();
    for (at, queue) in queues.queues.iter().enumerate() {
        for (within, waiting) in queue.waiting.iter().enumerate() {
            let places = [at as i64, within as i64];
            rows.push(row(waiting.request.slot, places, waiting.request.seats, &waiting.about, waiting.arrived, None));
        }
    }
    for running in queues.running.iter().flatten() {
        let places = [running.queue.map_or(-1, |at| at as i64), -1];
        let about = running.about.as_deref().unwrap_or(&none);
        rows.push(row(running.slot, places, running.seats, about, running.started, Some(running.started)));
    }
    rows
}
