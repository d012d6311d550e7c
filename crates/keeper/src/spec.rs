//! What `keeper create` and `keeper exec` are to do, complete: whoever reads it has no choice left.
//!
//! `runtime` writes it into a memfd and hands it over together with the program that reads it, both of one build, so
//! this form needs no compatibility with anything. Strings are bytes without a zero.

pub type Bytes = Vec<u8>;

/// A value with a binary form. Reading never panics and never allocates more than its input is long.
pub trait Field: Sized {
    #[allow(dead_code)] // the runtime's half
    fn put(&self, out: &mut Vec<u8>);
    fn get(input: &mut &[u8]) -> Option<Self>;
}

macro_rules! integers { ($($t:ty)*) => { $(impl Field for $t {
    fn put(&self, out: &mut Vec<u8>) { out.extend_from_slice(&self.to_le_bytes()); }
    fn get(input: &mut &[u8]) -> Option<Self> {
        let (head, rest) = input.split_first_chunk()?;
        *input = rest;
        Some(Self::from_le_bytes(*head))
    }
})* } }
integers!(u32 i32 u64);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn get(input: &mut &[u8]) -> Option<Self> {
        let (head, rest) = input.split_first()?;
        *input = rest;
        Some(*head != 0)
    }
}

impl Field for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self);
    }
    fn get(input: &mut &[u8]) -> Option<Self> {
        let len = u32::get(input)? as usize;
        let (head, rest) = input.split_at_checked(len)?;
        *input = rest;
        Some(head.to_vec())
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(input: &mut &[u8]) -> Option<Self> {
        (0..u32::get(input)?).map(|_| T::get(input)).collect()
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(if bool::get(input)? { Some(T::get(input)?) } else { None })
    }
}

macro_rules! records { ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $t:ty,)* })*) => { $(
    $(#[$doc])*
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct $name { $($(#[$fdoc])* pub $field: $t,)* }
    impl Field for $name {
        fn put(&self, out: &mut Vec<u8>) { $(self.$field.put(out);)* }
        fn get(input: &mut &[u8]) -> Option<Self> { Some($name { $($field: Field::get(input)?,)* }) }
    }
)* } }

records! {
    /// A container to be made.
    Create {
        cgroup: Cgroup,
        /// Written to the process before anything else; inherited by the container.
        oom_score_adj: Option<i32>,
        /// A PID namespace of its own.
        new_pid: bool,
        /// The one that the keeper hands over: the pod's, or another container's. With neither it is the host's.
        shared_pid: bool,
        root: Root,
        mounts: Vec<Mount>,
        devices: Vec<Device>,
        masked_paths: Vec<Bytes>,
        readonly_paths: Vec<Bytes>,
        process: Process,
    }
    /// A process to be started inside a container; the keeper hands over the container's pidfd.
    Exec {
        cgroup: Cgroup,
        oom_score_adj: Option<i32>,
        process: Process,
    }
    /// Where a process is accounted.
    Cgroup {
        /// v2: the directory to be born in; empty on v1.
        unified: Bytes,
        /// v1: the `cgroup.procs` files to enter, one for each hierarchy.
        procs: Vec<Bytes>,
        /// v2: the container sees its own cgroup as the root.
        namespace: bool,
    }
    /// The overlay that becomes `/`.
    Root {
        /// Unpacked layers, topmost first.
        lower: Vec<Bytes>,
        upper: Bytes,
        work: Bytes,
        /// An empty directory to mount on, seen by nobody else.
        target: Bytes,
        readonly: bool,
        /// Directories that stay writable in a read-only root: the image's volumes.
        writable: Vec<Bytes>,
    }
    Mount {
        /// Empty for a bind of `source`.
        fstype: Bytes,
        source: Bytes,
        /// Absolute path in the container; resolved inside its root, made if missing.
        target: Bytes,
        /// `key=value` or `flag` options of the file system.
        options: Vec<Bytes>,
        /// `MOUNT_ATTR_*` of the mount.
        attributes: u64,
        /// Apply `attributes` to the mounts below as well (`recursiveReadOnly`).
        recursive: bool,
        /// 0 private, 1 from the host (`HostToContainer`), 2 both ways (`Bidirectional`).
        propagation: u32,
        /// A missing source, or a file system that this kernel lacks, is no error.
        optional: bool,
        /// A bind whose owners on the disk are those in the container, in a user namespace too.
        mapped: bool,
    }
    Device {
        path: Bytes,
        /// `S_IFCHR` or `S_IFBLK` with the permissions.
        mode: u32,
        major: u32,
        minor: u32,
        uid: u32,
        gid: u32,
    }
    Process {
        args: Vec<Bytes>,
        /// `NAME=value`.
        env: Vec<Bytes>,
        cwd: Bytes,
        terminal: bool,
        user: User,
        /// Bit n is capability n: bounding, permitted and effective set.
        capabilities: u64,
        no_new_privileges: bool,
        /// Classic BPF instructions of 8 bytes each; empty for unconfined.
        seccomp: Bytes,
        /// AppArmor profile; empty for unconfined or a kernel without.
        apparmor: Bytes,
        rlimits: Vec<Rlimit>,
        /// In a user namespace: who is its root on the host.
        first_id: Option<u32>,
    }
    /// Who the process is. Names are looked up in the container's own files.
    User {
        /// `user[:group]` by name or number, as an image's `USER`; empty is root.
        name: Bytes,
        /// Instead of what `name` says.
        uid: Option<u32>,
        gid: Option<u32>,
        /// Added to the primary group.
        supplemental: Vec<u32>,
        /// Leave out the groups that the image's `/etc/group` gives the user (`supplementalGroupsPolicy: Strict`).
        strict: bool,
    }
    Rlimit { resource: u32, soft: u64, hard: u64, }
}

#[allow(dead_code)]
pub const PROPAGATION_SLAVE: u32 = 1;
pub const PROPAGATION_SHARED: u32 = 2;

impl Process {
    /// The host's number of a container's user or group.
    #[allow(dead_code)] // the keeper's half
    pub fn on_host(&self, id: u32) -> u32 {
        id.saturating_add(self.first_id.unwrap_or(0))
    }
}
