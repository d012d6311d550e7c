//! From words to one set of arguments: the config file's entries become flags which stand before the command line's.
//!
//! `name: value` is `--name=value`, `name: true` is `--name`, a list repeats the flag. A flag on the command line
//! replaces the file's; `name+:` in the file adds to it instead. All mistakes are reported at once, by clap.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use schema::{Decoded, Value, yaml};

use crate::cli::Cli;

pub const DEFAULT_FILE: &str = "/etc/sampan/config.yaml";
/// A config file is not larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {why}", path.display())]
    Garbled { path: PathBuf, why: String },
    #[error("{}", .0.to_string().trim_end())]
    Arguments(#[from] clap::Error),
}

/// Parses a command line with the config file that it (or the environment) names.
pub fn parse(words: Vec<OsString>, environment: impl Fn(&str) -> Option<OsString>) -> Result<Cli, Error> {
    let takes_config = words.get(1).is_some_and(|command| command == "server" || command == "agent");
    if !takes_config {
        return Ok(Cli::try_parse_from(words)?);
    }
    let named = flag_value(&words, "--config", "-c").or_else(|| environment("SAMPAN_CONFIG_FILE")).map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => String::new(),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let from_file = flags(&path, &text, &words)?;
    let (head, rest) = words.split_at(2);
    let all = head.iter().cloned().chain(from_file.into_iter().map(OsString::from)).chain(rest.iter().cloned());
    Ok(Cli::try_parse_from(all)?)
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The last value of a flag among words.
fn flag_value(words: &[OsString], long: &str, short: &str) -> Option<OsString> {
    let mut value = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == long || word == short {
            value = words.next().cloned();
        } else if let Some(text) = word.to_str().and_then(|word| word.strip_prefix(long)?.strip_prefix('=')) {
            value = Some(text.into());
        }
    }
    value
}

/// The file's entries as flags, but for those that the command line replaces.
fn flags(path: &Path, text: &str, words: &[OsString]) -> Result<Vec<String>, Error> {
    let garbled = |why: String| Error::Garbled { path: path.to_owned(), why };
    let entries = match yaml::parse(text.as_bytes()) {
        Ok(Decoded { value: Value::Null, .. }) => return Ok(Vec::new()),
        Ok(Decoded { value: Value::Object(entries), .. }) => entries,
        Ok(_) => return Err(garbled("expected `flag: value` lines".into())),
        Err(error) => return Err(garbled(error.to_string())),
    };
    let known = known_flags(words);
    let (mut flags, mut problems) = (Vec::new(), Vec::new());
    for (entry, value) in entries {
        let (name, add) = entry.strip_suffix('+').map_or((&*entry, false), |name| (name, true));
        let long = format!("--{name}");
        if !known.iter().any(|flag| flag == name) {
            problems.push(format!("unknown flag `{name}`"));
            continue;
        }
        if !add && words.iter().any(|word| word.to_str().is_some_and(|word| word.split('=').next() == Some(&long))) {
            continue;
        }
        match scalars(&value) {
            None => problems.push(format!("`{name}` must be a string, a number, a boolean or a list of them")),
            Some(values) => flags.extend(values.into_iter().filter_map(|value| match &*value {
                "true" if is_switch(words, name) => Some(long.clone()),
                "false" if is_switch(words, name) => None,
                _ => Some(format!("{long}={value}")),
            })),
        }
    }
    if problems.is_empty() { Ok(flags) } else { Err(garbled(problems.join("; "))) }
}

fn subcommand(words: &[OsString]) -> clap::Command {
    let command = Cli::command();
    let name = words.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    command.find_subcommand(name).cloned().unwrap_or(command)
}

fn known_flags(words: &[OsString]) -> Vec<String> {
    subcommand(words).get_arguments().filter_map(|flag| flag.get_long().map(str::to_owned)).collect()
}

fn is_switch(words: &[OsString], name: &str) -> bool {
    subcommand(words)
        .get_arguments()
        .any(|flag| flag.get_long() == Some(name) && matches!(flag.get_action(), clap::ArgAction::SetTrue))
}

fn scalars(value: &Value) -> Option<Vec<String>> {
    Some(match value {
        Value::String(text) => vec![text.clone()],
        Value::Int(number) => vec![number.to_string()],
        Value::Float(number) => vec![number.to_string()],
        Value::Bool(switch) => vec![switch.to_string()],
        Value::Null => vec![],
        Value::List(items) => items.iter().map(|item| scalars(item)?.into_iter().next()).collect::<Option<_>>()?,
        Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests;
