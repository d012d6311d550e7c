//! `--token-auth-file`: lines of token, user name, uid and, quoted, groups.

use std::collections::HashMap;

use crate::User;

/// Users by their tokens; of tokens that occur twice, the last one's.
///
/// # Errors
/// What in the file is not as it should be.
pub fn parse(path: &str, text: &str) -> Result<HashMap<String, User>, String> {
    let mut users = HashMap::new();
    for record in records(text).map_err(|why| format!("token file '{path}': {why}"))? {
        let (token, name, uid, groups) = match record.as_slice() {
            [token, name, uid] => (token, name, uid, ""),
            [token, name, uid, groups, ..] => (token, name, uid, groups.as_str()),
            few => {
                return Err(format!(
                    "token file '{path}' must have at least 3 columns (token, user name, user uid), found {}",
                    few.len()
                ));
            }
        };
        if token.is_empty() {
            tracing::warn!(path, "empty token has been found in token file");
            continue;
        }
        let groups = if record.len() > 3 { groups.split(',').map(str::to_owned).collect() } else { Vec::new() };
        let user = User { name: name.clone(), uid: uid.clone(), groups, ..User::default() };
        if users.insert(token.clone(), user).is_some() {
            tracing::warn!(path, user = name, "duplicate token has been found in token file");
        }
    }
    Ok(users)
}

/// Comma-separated values (RFC 4180); empty lines are none.
fn records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut records = vec![vec![String::new()]];
    let mut quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let Some(record) = records.last_mut() else { break };
        let Some(field) = record.last_mut() else { break };
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => field.extend(rest.next()),
            '"' if quoted => quoted = false,
            c if quoted => field.push(c),
            '"' if field.is_empty() => quoted = true,
            '"' => return Err("bare \" in non-quoted-field".into()),
            ',' => record.push(String::new()),
            '\n' => records.push(vec![String::new()]),
            '\r' if rest.peek() == Some(&'\n') => {}
            c => field.push(c),
        }
    }
    if quoted {
        return Err("extraneous or missing \" in quoted-field".into());
    }
    records.retain(|record| record.len() > 1 || record.iter().any(|field| !field.is_empty()));
    Ok(records)
}
