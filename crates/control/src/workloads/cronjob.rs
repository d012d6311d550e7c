//! The CronJob controller: a Job at each time of a schedule.
