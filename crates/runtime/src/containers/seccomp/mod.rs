//! Seccomp: profiles to classic BPF, without the C library.
//!
//! [`runtime_default`] is what `seccompProfile: RuntimeDefault` means, [`localhost`] reads an OCI profile from a file.
//! Both become a list of [`Rule`]s, and [`compile`] makes of them one binary search over the call's number for each
//! architecture that the kernel may run. The instructions go to the keeper's `create`, which installs them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::caps;

const SYSCALLS: &str = include_str!("syscalls.txt");
const DEFAULT_PROFILE: &str = include_str!("default.txt");

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// All `CLONE_NEW*` of the mask that the default profile forbids to `clone`.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The kernel's own limit of a filter.
const MAX_INSTRUCTIONS: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("seccomp profile is not valid JSON of an OCI profile")]
    Json(#[source] serde_json::Error),
    #[error("seccomp profile: unknown action {0}")]
    Action(String),
    #[error("seccomp profile: unknown comparison {0}")]
    Comparison(String),
    #[error("seccomp profile: argument index {0} is past the sixth")]
    Argument(u32),
    #[error("seccomp profile: its filter has {0} instructions, more than the kernel takes")]
    TooLong(usize),
}

/// An architecture whose calls this kernel may run: its `AUDIT_ARCH_*` and its column of `syscalls.txt`.
#[derive(Clone, Copy)]
struct Arch {
    name: &'static str,
    audit: u32,
    column: usize,
}

const X86_64: Arch = Arch { name: "x86_64", audit: 0xc000_003e, column: 1 };
const I386: Arch = Arch { name: "x86", audit: 0x4000_0003, column: 2 };
const AARCH64: Arch = Arch { name: "aarch64", audit: 0xc000_00b7, column: 3 };
const ARM: Arch = Arch { name: "arm", audit: 0x4000_0028, column: 4 };

fn architectures() -> &'static [Arch] {
    match std::env::consts::ARCH {
        "x86_64" => &[X86_64, I386],
        "x86" => &[I386],
        "aarch64" => &[AARCH64, ARM],
        "arm" => &[ARM],
        _ => &[],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// `argument & value == second`.
    Masked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub index: u32,
    pub compare: Compare,
    pub value: u64,
    pub second: u64,
}

/// What happens to a call if all conditions hold.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub conditions: Vec<Condition>,
    /// `SECCOMP_RET_*`.
    pub action: u32,
}

pub struct Profile {
    pub default_action: u32,
    pub rules: Vec<Rule>,
}

/// The default profile for a process with these capabilities.
pub fn runtime_default(capabilities: u64) -> Profile {
    let mut rules = Vec::new();
    let mut applies = true;
    let rule = |name: &str, conditions: Vec<Condition>, action| Rule { name: name.to_string(), conditions, action };
    for line in DEFAULT_PROFILE.lines().filter(|l| !l.starts_with('#')) {
        match line.split_once(' ') {
            None if line == "always" => applies = true,
            Some(("cap", name)) => applies = caps::bit(name).is_some_and(|bit| capabilities & bit != 0),
            Some(("arch", name)) => applies = architectures().first().is_some_and(|arch| arch.name == name),
            _ if applies => rules.extend(line.split(' ').map(|name| rule(name, vec![], ALLOW))),
            _ => {}
        }
    }
    let condition = |index, compare, value, second| Condition { index, compare, value, second };
    // Every family but the kernel's crypto sockets and those of virtual machines.
    let not = |family| condition(0, Compare::Ne, family, 0);
    rules.push(rule("socket", vec![not(38), not(40)], ALLOW));
    for personality in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        rules.push(rule("personality", vec![condition(0, Compare::Eq, personality, 0)], ALLOW));
    }
    if caps::bit("SYS_ADMIN").is_some_and(|bit| capabilities & bit == 0) {
        rules.push(rule("clone", vec![condition(0, Compare::Masked, NAMESPACE_FLAGS, 0)], ALLOW));
        // Its flags are in memory, which a filter cannot read: C libraries fall back to clone.
        rules.push(rule("clone3", vec![], ERRNO | ENOSYS));
    }
    Profile { default_action: ERRNO | EPERM, rules }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<OciRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciRule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<OciArgument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciArgument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads an OCI runtime profile (`config-linux.md`, seccomp). Calls that no kernel here knows are passed over, as upstream does.
pub fn localhost(json: &[u8]) -> Result<Profile, Error> {
    let profile: OciProfile = serde_json::from_slice(json).map_err(Error::Json)?;
    let default_action = action(&profile.default_action, profile.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in profile.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        let mut conditions = Vec::new();
        for argument in rule.args.unwrap_or_default() {
            let compare = match argument.op.as_str() {
                "SCMP_CMP_EQ" => Compare::Eq,
                "SCMP_CMP_NE" => Compare::Ne,
                "SCMP_CMP_LT" => Compare::Lt,
                "SCMP_CMP_LE" => Compare::Le,
                "SCMP_CMP_GT" => Compare::Gt,
                "SCMP_CMP_GE" => Compare::Ge,
                "SCMP_CMP_MASKED_EQ" => Compare::Masked,
                _ => return Err(Error::Comparison(argument.op)),
            };
            if argument.index > 5 {
                return Err(Error::Argument(argument.index));
            }
            conditions.push(Condition {
                index: argument.index,
                compare,
                value: argument.value,
                second: argument.value_two,
            });
        }
        rules.extend(rule.names.into_iter().map(|name| Rule { name, conditions: conditions.clone(), action }));
    }
    Ok(Profile { default_action, rules })
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, Error> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | (errno.unwrap_or(EPERM) & 0xffff),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | (errno.unwrap_or(EPERM) & 0xffff),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        _ => return Err(Error::Action(name.to_string())),
    })
}

/// Instructions of `struct sock_filter`, 8 bytes each in the machine's order; empty where the machine has no table.
pub fn compile(profile: &Profile) -> Result<Vec<u8>, Error> {
    let mut code = Code::default();
    for arch in architectures() {
        let block = Block::new(profile, *arch);
        let mut inner = Code::default();
        inner.load(0);
        block.search(&mut inner, &block.ranges());
        code.load(4);
        code.jump(JEQ, arch.audit, 1, 0);
        code.far(inner.0.len());
        code.0.extend(inner.0);
    }
    if !code.0.is_empty() {
        code.answer(KILL_PROCESS); // calls of an architecture that nobody named
    }
    if code.0.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(code.0.len()));
    }
    Ok(code.0.iter().flat_map(Instruction::bytes).collect())
}

type Instruction4 = (u16, u8, u8, u32);

#[derive(Clone, Copy)]
struct Instruction(Instruction4);

impl Instruction {
    fn bytes(&self) -> [u8; 8] {
        let Instruction((code, jt, jf, k)) = *self;
        let mut out = [0; 8];
        out[..2].copy_from_slice(&code.to_ne_bytes());
        (out[2], out[3]) = (jt, jf);
        out[4..].copy_from_slice(&k.to_ne_bytes());
        out
    }
}

const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;

#[derive(Default)]
struct Code(Vec<Instruction>);

impl Code {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.0.push(Instruction((code, jt, jf, k)));
    }
    /// Loads a word of `struct seccomp_data`: 0 the number, 4 the architecture, 16 + 8n argument n.
    fn load(&mut self, offset: u32) {
        self.push(0x20, 0, 0, offset);
    }
    fn jump(&mut self, compare: u16, k: u32, yes: u8, no: u8) {
        self.push(compare, yes, no, k);
    }
    fn far(&mut self, instructions: usize) {
        self.push(0x05, 0, 0, instructions as u32);
    }
    fn answer(&mut self, action: u32) {
        self.push(0x06, 0, 0, action);
    }

    /// Falls through if the condition holds, else skips `rest` instructions more than the condition's own.
    fn condition(&mut self, c: &Condition, rest: u8) {
        let (low, high) = (16 + 8 * c.index, 20 + 8 * c.index);
        let (low, high) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
        let parts = |value: u64| ((value >> 32) as u32, value as u32);
        let (value_high, value_low) = parts(c.value);
        match c.compare {
            Compare::Masked => {
                let (second_high, second_low) = parts(c.second);
                self.load(high);
                self.push(0x54, 0, 0, value_high); // and
                self.jump(JEQ, second_high, 0, rest + 3);
                self.load(low);
                self.push(0x54, 0, 0, value_low);
                self.jump(JEQ, second_low, 0, rest);
            }
            Compare::Eq => {
                self.load(high);
                self.jump(JEQ, value_high, 0, rest + 2);
                self.load(low);
                self.jump(JEQ, value_low, 0, rest);
            }
            Compare::Ne => {
                self.load(high);
                self.jump(JEQ, value_high, 0, 2);
                self.load(low);
                self.jump(JEQ, value_low, rest, 0);
            }
            Compare::Gt | Compare::Ge => {
                self.load(high);
                self.jump(JGT, value_high, 3, 0);
                self.jump(JEQ, value_high, 0, rest + 2);
                self.load(low);
                self.jump(if c.compare == Compare::Gt { JGT } else { JGE }, value_low, 0, rest);
            }
            Compare::Lt | Compare::Le => {
                self.load(high);
                self.jump(JGT, value_high, rest + 3, 0);
                self.jump(JEQ, value_high, 0, 2);
                self.load(low);
                self.jump(if c.compare == Compare::Le { JGT } else { JGE }, value_low, rest, 0);
            }
        }
    }
}

/// Answers that depend on arguments, in order.
type Conditional = Vec<(Vec<Condition>, u32)>;

/// The rules of one architecture: for each number its conditional answers and its last one.
struct Block {
    default_action: u32,
    calls: BTreeMap<u32, (Conditional, u32)>,
    x86_64: bool,
}

/// From this number on until the next range: how to answer.
#[derive(Clone, PartialEq)]
struct Range {
    from: u32,
    conditional: Conditional,
    last: u32,
}

impl Block {
    fn new(profile: &Profile, arch: Arch) -> Block {
        let numbers = numbers(arch);
        let mut calls: BTreeMap<u32, (Conditional, u32)> = BTreeMap::new();
        for rule in &profile.rules {
            let Some(number) = numbers.get(rule.name.as_str()) else { continue };
            let call = calls.entry(*number).or_insert_with(|| (Vec::new(), profile.default_action));
            match rule.conditions.is_empty() {
                true => call.1 = rule.action,
                false => call.0.push((rule.conditions.clone(), rule.action)),
            }
        }
        Block { default_action: profile.default_action, calls, x86_64: arch.column == X86_64.column }
    }

    fn ranges(&self) -> Vec<Range> {
        let plain = |from| Range { from, conditional: vec![], last: self.default_action };
        let mut ranges = vec![plain(0)];
        let mut next = 0;
        let mut push = |range: Range| match ranges.last() {
            Some(last) if last.conditional == range.conditional && last.last == range.last => {}
            Some(last) if last.from == range.from => {
                ranges.pop();
                ranges.push(range);
            }
            _ => ranges.push(range),
        };
        for (number, (conditional, last)) in &self.calls {
            if *number > next {
                push(plain(next));
            }
            push(Range { from: *number, conditional: conditional.clone(), last: *last });
            next = number + 1;
        }
        push(plain(next));
        if self.x86_64 {
            // The x32 numbers share the architecture's id; nobody uses them.
            push(Range { last: ERRNO | ENOSYS, ..plain(0x4000_0000) });
        }
        ranges
    }

    fn search(&self, code: &mut Code, ranges: &[Range]) {
        if let [range] = ranges {
            for (conditions, action) in &range.conditional {
                // From the last backwards, for each must know how far it is to the next rule.
                let mut rule = Code::default();
                rule.answer(*action);
                for condition in conditions.iter().rev() {
                    let mut before = Code::default();
                    before.condition(condition, rule.0.len().min(240) as u8);
                    before.0.append(&mut rule.0);
                    rule = before;
                }
                code.0.extend(rule.0);
            }
            return code.answer(range.last);
        }
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let mut inner = Code::default();
        self.search(&mut inner, left);
        // A searched number is in the accumulator until a rule loads an argument, and then it is not searched again.
        code.jump(JGE, right.first().map_or(0, |r| r.from), 0, 1);
        code.far(inner.0.len());
        code.0.extend(inner.0);
        self.search(code, right);
    }
}

fn numbers(arch: Arch) -> BTreeMap<&'static str, u32> {
    let row = |line: &'static str| {
        let mut fields = line.split(' ');
        let name = fields.next()?;
        Some((name, fields.nth(arch.column - 1)?.parse().ok()?))
    };
    SYSCALLS.lines().filter(|l| !l.starts_with('#')).filter_map(row).collect()
}

#[cfg(test)]
mod tests;
