//! The table of functions: name, what computes it, and its overloads as declarations.
//!
//! A method's overloads begin with a dot, and their first type is the target's. `A` and `B` are any types.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::types::Type;
use super::value::Run;
use super::{authz, kube, lists, ops, strings, time};

pub struct Function {
    pub run: Run,
    pub overloads: Vec<Overload>,
}

#[derive(Debug)]
pub struct Overload {
    pub method: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

const COMPARED: &str = "(bool, bool) bool; (int, int) bool; (int, uint) bool; (int, double) bool; (uint, uint) bool; (uint, int) bool; (uint, double) bool; (double, double) bool; (double, int) bool; (double, uint) bool; (string, string) bool; (bytes, bytes) bool; (timestamp, timestamp) bool; (duration, duration) bool";
const INDEXED: &str = "(list<A>, int) A; (map<A,B>, A) B; (opt<list<A>>, int) opt<A>; (opt<map<A,B>>, A) opt<B>";
const OPTIONALLY_INDEXED: &str =
    "(list<A>, int) opt<A>; (map<A,B>, A) opt<B>; (opt<list<A>>, int) opt<A>; (opt<map<A,B>>, A) opt<B>";
const ORDERED_LIST: &str = ".(list<int>) list<int>; .(list<uint>) list<uint>; .(list<double>) list<double>; .(list<bool>) list<bool>; .(list<duration>) list<duration>; .(list<timestamp>) list<timestamp>; .(list<string>) list<string>; .(list<bytes>) list<bytes>";
const EXTREME: &str = ".(list<int>) int; .(list<uint>) uint; .(list<double>) double; .(list<bool>) bool; .(list<duration>) duration; .(list<timestamp>) timestamp; .(list<string>) string; .(list<bytes>) bytes";
const IS_SORTED: &str = ".(list<int>) bool; .(list<uint>) bool; .(list<double>) bool; .(list<bool>) bool; .(list<duration>) bool; .(list<timestamp>) bool; .(list<string>) bool; .(list<bytes>) bool";
const OF_TIME: &str = ".(timestamp) int; .(timestamp, string) int";
const OF_TIME_OR_DURATION: &str = ".(timestamp) int; .(timestamp, string) int; .(duration) int";
const FOUND: &str = ".(string, string) int; .(string, string, int) int; .(list<A>, A) int";

const TABLE: &[(&str, Run, &str)] = &[
    // The evaluator's own: they are lazy, or own an argument.
    ("_?_:_", ops::to_dyn, "(bool, A, A) A"),
    ("@not_strictly_false", ops::to_dyn, "(bool) bool"),
    ("or", ops::to_dyn, ".(opt<A>, opt<A>) opt<A>"),
    ("orValue", ops::to_dyn, ".(opt<A>, A) A"),
    ("cel.@mapInsert", ops::to_dyn, "(map<A,B>, A, B) map<A,B>; (map<A,B>, map<A,B>) map<A,B>"),
    // Operators.
    (
        "_+_",
        ops::plus,
        "(int, int) int; (uint, uint) uint; (double, double) double; (string, string) string; (bytes, bytes) bytes; (list<A>, list<A>) list<A>; (timestamp, duration) timestamp; (duration, timestamp) timestamp; (duration, duration) duration",
    ),
    (
        "_-_",
        ops::minus,
        "(int, int) int; (uint, uint) uint; (double, double) double; (timestamp, timestamp) duration; (timestamp, duration) timestamp; (duration, duration) duration",
    ),
    ("_*_", ops::times, "(int, int) int; (uint, uint) uint; (double, double) double"),
    ("_/_", ops::divide, "(int, int) int; (uint, uint) uint; (double, double) double"),
    ("_%_", ops::modulo, "(int, int) int; (uint, uint) uint"),
    ("-_", ops::negate, "(int) int; (double) double; (duration) duration"),
    ("!_", ops::not, "(bool) bool"),
    ("_==_", ops::equals, "(A, A) bool"),
    ("_!=_", ops::not_equals, "(A, A) bool"),
    ("_<_", ops::less, COMPARED),
    ("_<=_", ops::less_equals, COMPARED),
    ("_>_", ops::greater, COMPARED),
    ("_>=_", ops::greater_equals, COMPARED),
    ("@in", ops::is_in, "(A, list<A>) bool; (A, map<A,B>) bool"),
    ("_[_]", ops::index, INDEXED),
    ("_[?_]", ops::optional_index, OPTIONALLY_INDEXED),
    ("_?._", ops::optional_index, "(dyn, string) opt<dyn>"),
    // Conversions.
    (
        "size",
        ops::size,
        "(string) int; (bytes) int; (list<A>) int; (map<A,B>) int; .(string) int; .(bytes) int; .(list<A>) int; .(map<A,B>) int",
    ),
    ("bool", ops::to_bool, "(bool) bool; (string) bool"),
    ("int", ops::to_int, "(int) int; (uint) int; (double) int; (string) int; (timestamp) int; (duration) int"),
    ("uint", ops::to_uint, "(uint) uint; (int) uint; (double) uint; (string) uint"),
    ("double", ops::to_double, "(double) double; (int) double; (uint) double; (string) double"),
    ("bytes", ops::to_bytes, "(bytes) bytes; (string) bytes"),
    (
        "string",
        ops::to_string,
        "(string) string; (bool) string; (int) string; (uint) string; (double) string; (bytes) string; (timestamp) string; (duration) string; (IP) string; (CIDR) string",
    ),
    ("dyn", ops::to_dyn, "(A) dyn"),
    ("type", ops::type_of, "(A) type<A>"),
    ("timestamp", time::timestamp, "(timestamp) timestamp; (string) timestamp; (int) timestamp"),
    ("duration", time::duration, "(duration) duration; (string) duration; (int) duration"),
    // Optionals.
    ("optional.of", ops::optional_of, "(A) opt<A>"),
    ("optional.ofNonZeroValue", ops::optional_of_non_zero, "(A) opt<A>"),
    ("optional.none", ops::optional_none, "() opt<A>"),
    ("hasValue", ops::optional_has_value, ".(opt<A>) bool"),
    ("value", ops::optional_value, ".(opt<A>) A"),
    // Time.
    ("getFullYear", time::full_year, OF_TIME),
    ("getMonth", time::month, OF_TIME),
    ("getDate", time::date, OF_TIME),
    ("getDayOfMonth", time::day_of_month, OF_TIME),
    ("getDayOfWeek", time::day_of_week, OF_TIME),
    ("getDayOfYear", time::day_of_year, OF_TIME),
    ("getHours", time::hours, OF_TIME_OR_DURATION),
    ("getMinutes", time::minutes, OF_TIME_OR_DURATION),
    ("getSeconds", time::seconds, OF_TIME_OR_DURATION),
    ("getMilliseconds", time::milliseconds, OF_TIME_OR_DURATION),
    // Strings.
    ("startsWith", strings::starts_with, ".(string, string) bool"),
    ("endsWith", strings::ends_with, ".(string, string) bool"),
    ("contains", strings::contains, ".(string, string) bool"),
    ("matches", strings::matches, "(string, string) bool; .(string, string) bool"),
    ("find", strings::find, ".(string, string) string"),
    ("findAll", strings::find_all, ".(string, string) list<string>; .(string, string, int) list<string>"),
    ("charAt", strings::char_at, ".(string, int) string"),
    ("lowerAscii", strings::lower_ascii, ".(string) string"),
    ("upperAscii", strings::upper_ascii, ".(string) string"),
    ("trim", strings::trim, ".(string) string"),
    ("replace", strings::replace, ".(string, string, string) string; .(string, string, string, int) string"),
    ("split", strings::split, ".(string, string) list<string>; .(string, string, int) list<string>"),
    ("substring", strings::substring, ".(string, int) string; .(string, int, int) string"),
    ("join", strings::join, ".(list<string>) string; .(list<string>, string) string"),
    ("format", strings::format, ".(string, list<dyn>) string"),
    ("strings.quote", strings::quote, "(string) string"),
    // Lists.
    ("indexOf", lists::index_of, FOUND),
    ("lastIndexOf", lists::last_index_of, FOUND),
    ("isSorted", lists::is_sorted, IS_SORTED),
    ("sum", lists::sum, ".(list<int>) int; .(list<uint>) uint; .(list<double>) double; .(list<duration>) duration"),
    ("min", lists::min, EXTREME),
    ("max", lists::max, EXTREME),
    ("slice", lists::slice, ".(list<A>, int, int) list<A>"),
    ("flatten", lists::flatten, ".(list<list<A>>) list<A>; .(list<dyn>, int) list<dyn>"),
    ("sort", lists::sort, ORDERED_LIST),
    ("@sortByAssociatedKeys", lists::sort_by_keys, ".(list<A>, list<B>) list<A>"),
    ("lists.range", lists::range, "(int) list<int>"),
    ("reverse", lists::reverse, ".(list<A>) list<A>"),
    ("distinct", lists::distinct, ".(list<A>) list<A>"),
    ("first", lists::first, ".(list<A>) opt<A>"),
    ("last", lists::last, ".(list<A>) opt<A>"),
    ("sets.contains", lists::sets_contains, "(list<A>, list<A>) bool"),
    ("sets.equivalent", lists::sets_equivalent, "(list<A>, list<A>) bool"),
    ("sets.intersects", lists::sets_intersects, "(list<A>, list<A>) bool"),
    // URLs and addresses.
    ("url", kube::url, "(string) URL"),
    ("isURL", kube::is_url, "(string) bool"),
    ("getScheme", kube::url_scheme, ".(URL) string"),
    ("getHost", kube::url_host, ".(URL) string"),
    ("getHostname", kube::url_hostname, ".(URL) string"),
    ("getPort", kube::url_port, ".(URL) string"),
    ("getEscapedPath", kube::url_path, ".(URL) string"),
    ("getQuery", kube::url_query, ".(URL) map<string,list<string>>"),
    ("ip", kube::ip, "(string) IP; .(CIDR) IP"),
    ("isIP", kube::is_ip, "(string) bool"),
    ("ip.isCanonical", kube::ip_is_canonical, "(string) bool"),
    ("family", kube::ip_family, ".(IP) int"),
    ("isUnspecified", kube::ip_is_unspecified, ".(IP) bool"),
    ("isLoopback", kube::ip_is_loopback, ".(IP) bool"),
    ("isLinkLocalMulticast", kube::ip_is_link_local_multicast, ".(IP) bool"),
    ("isLinkLocalUnicast", kube::ip_is_link_local_unicast, ".(IP) bool"),
    ("isGlobalUnicast", kube::ip_is_global_unicast, ".(IP) bool"),
    ("cidr", kube::cidr, "(string) CIDR"),
    ("isCIDR", kube::is_cidr, "(string) bool"),
    ("containsIP", kube::contains_ip, ".(CIDR, string) bool; .(CIDR, IP) bool"),
    ("containsCIDR", kube::contains_cidr, ".(CIDR, string) bool; .(CIDR, CIDR) bool"),
    ("prefixLength", kube::prefix_length, ".(CIDR) int"),
    ("masked", kube::cidr_masked, ".(CIDR) CIDR"),
    // Quantities and versions.
    ("quantity", kube::quantity, "(string) Quantity"),
    ("isQuantity", kube::is_quantity, "(string) bool"),
    ("sign", kube::sign, "(Quantity) int; .(Quantity) int"),
    ("isInteger", kube::is_integer, ".(Quantity) bool"),
    ("asInteger", kube::as_integer, ".(Quantity) int"),
    ("asApproximateFloat", kube::as_float, ".(Quantity) double"),
    ("add", kube::quantity_add, ".(Quantity, Quantity) Quantity; .(Quantity, int) Quantity"),
    ("sub", kube::quantity_sub, ".(Quantity, Quantity) Quantity; .(Quantity, int) Quantity"),
    ("isGreaterThan", kube::is_greater_than, ".(Quantity, Quantity) bool; .(Semver, Semver) bool"),
    ("isLessThan", kube::is_less_than, ".(Quantity, Quantity) bool; .(Semver, Semver) bool"),
    ("compareTo", kube::compare_to, ".(Quantity, Quantity) int; .(Semver, Semver) int"),
    ("semver", kube::semver, "(string) Semver; (string, bool) Semver"),
    ("isSemver", kube::is_semver, "(string) bool; (string, bool) bool"),
    ("major", kube::major, ".(Semver) int"),
    ("minor", kube::minor, ".(Semver) int"),
    ("patch", kube::patch, ".(Semver) int"),
    // Formats.
    ("format.named", kube::format_named, "(string) opt<NamedFormat>"),
    ("validate", kube::validate, ".(NamedFormat, string) opt<list<string>>"),
    ("jsonpatch.escapeKey", kube::escape_key, "(string) string"),
    // Authorization.
    ("path", authz::path, ".(Authorizer, string) PathCheck"),
    ("group", authz::group, ".(Authorizer, string) GroupCheck"),
    ("serviceAccount", authz::service_account, ".(Authorizer, string, string) Authorizer"),
    ("resource", authz::resource, ".(GroupCheck, string) ResourceCheck"),
    ("subresource", authz::subresource, ".(ResourceCheck, string) ResourceCheck"),
    ("namespace", authz::namespace, ".(ResourceCheck, string) ResourceCheck"),
    ("name", authz::name, ".(ResourceCheck, string) ResourceCheck"),
    ("fieldSelector", authz::selector, ".(ResourceCheck, string) ResourceCheck"),
    ("labelSelector", authz::selector, ".(ResourceCheck, string) ResourceCheck"),
    ("check", authz::check, ".(PathCheck, string) Decision; .(ResourceCheck, string) Decision"),
    ("allowed", authz::allowed, ".(Decision) bool"),
    ("reason", authz::reason, ".(Decision) string"),
    ("errored", authz::errored, ".(Decision) bool"),
    ("error", authz::error, ".(Decision) string"),
];

/// Arguments' types, parted by commas that stand in no brackets.
fn types(text: &str) -> Vec<Type> {
    let mut out = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in text.char_indices().chain(std::iter::once((text.len(), ','))) {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                let part = text[start..at].trim();
                if !part.is_empty() {
                    out.push(Type::parse(part));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    out
}

fn overload(text: &str) -> Option<Overload> {
    let (args, result) = text.trim().rsplit_once(") ")?;
    let method = args.starts_with('.');
    let args = args.trim_start_matches('.').strip_prefix('(')?;
    Some(Overload { method, args: types(args), result: Type::parse(result) })
}

/// The function of that name.
pub fn find(name: &str) -> Option<&'static Function> {
    static FUNCTIONS: OnceLock<HashMap<&str, Function>> = OnceLock::new();
    let table = FUNCTIONS.get_or_init(|| {
        let mut table: HashMap<&str, Function> = TABLE
            .iter()
            .map(|(name, run, declared)| {
                (*name, Function { run: *run, overloads: declared.split(';').filter_map(overload).collect() })
            })
            .collect();
        let result = Type::parse("NamedFormat");
        let overloads = vec![Overload { method: false, args: Vec::new(), result }];
        table.insert("format.*", Function { run: kube::format_constant, overloads });
        table
    });
    match name.strip_prefix("format.") {
        Some(format) if kube::FORMATS.iter().any(|f| f.name == format) => table.get("format.*"),
        _ => table.get(name),
    }
}
