//! The Job controller: pods run until enough of them have succeeded, or too many have failed.
