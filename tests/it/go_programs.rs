//! Programs as Go's linker writes them, as far as their build information goes.

/// Where the parts of the program are in memory.
const BASE: u64 = 0x40_0000;
/// What stands around the module information.
const SENTINEL: [u8; 16] = [0xab; 16];

/// A program that Go built.
pub(crate) struct GoProgram<'a> {
    pub(crate) go: &'a str,
    /// The lines of `go version -m`.
    pub(crate) modules: &'a str,
    /// What the linker was told to put into variables.
    pub(crate) linked: &'a [&'a str],
    /// Before Go 1.18 the build information has pointers to its texts.
    pub(crate) pointers: bool,
}

/// A kubelet of the Kubernetes project, stripped as theirs are.
pub(crate) fn kubelet(kubernetes: &str, go: &str) -> Vec<u8> {
    GoProgram {
        go,
        modules: "path\tk8s.io/kubernetes/cmd/kubelet\nbuild\t-trimpath=true\n",
        linked: &["archive", kubernetes, "faecb196815e248d3ecfb03c680a4507229c2a56"],
        pointers: false,
    }
    .file()
}

impl GoProgram<'_> {
    /// The file: a header, one segment that is the whole file, and the sections.
    pub(crate) fn file(&self) -> Vec<u8> {
        const HEADERS: usize = 64 + 56;
        let mut rodata = b"constants of Go without an end: v9.9.9 v8.8.8\0\0".to_vec();
        for text in self.linked {
            rodata.resize(rodata.len().next_multiple_of(16), 0);
            rodata.extend(text.bytes().chain([0]));
        }
        rodata.resize(rodata.len().next_multiple_of(16), 0);
        let modules = [&SENTINEL[..], self.modules.as_bytes(), &SENTINEL].concat();
        let at = |offset: usize| BASE + offset as u64;
        let mut file = vec![0; HEADERS];
        file.resize(HEADERS.next_multiple_of(16), 0);
        let rodata_at = file.len();
        file.extend(&rodata);
        let texts_at = file.len();
        file.extend(self.go.bytes());
        file.extend(&modules);
        file.resize(file.len().next_multiple_of(16), 0);
        let strings_at = file.len();
        for (offset, length) in [
            (texts_at, self.go.len()),
            (texts_at + self.go.len(), modules.len()),
        ] {
            file.extend(at(offset).to_le_bytes());
            file.extend((length as u64).to_le_bytes());
        }
        let information_at = file.len();
        file.extend(b"\xff Go buildinf:");
        if self.pointers {
            file.extend([8, 0]);
            file.extend(at(strings_at).to_le_bytes());
            file.extend(at(strings_at + 16).to_le_bytes());
        } else {
            file.extend([8, 2]);
            file.extend([0; 16]);
            for text in [self.go.as_bytes(), &modules] {
                let mut length = text.len();
                while length >= 0x80 {
                    file.push((length & 0x7f) as u8 | 0x80);
                    length >>= 7;
                }
                file.push(length as u8);
                file.extend(text);
            }
        }
        let information = file.len() - information_at;
        let names = b"\0.rodata\0.go.buildinfo\0.shstrtab\0";
        let names_at = file.len();
        file.extend(names);
        file.resize(file.len().next_multiple_of(8), 0);
        let sections_at = file.len();
        for (name, kind, address, offset, size) in [
            (0u32, 0u32, 0u64, 0, 0),
            (1, 1, at(rodata_at), rodata_at, rodata.len()),
            (9, 1, at(information_at), information_at, information),
            (23, 3, 0, names_at, names.len()),
        ] {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(0u64.to_le_bytes());
            file.extend(address.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            file.extend((size as u64).to_le_bytes());
            file.extend([0; 8]);
            file.extend(1u64.to_le_bytes());
            file.extend(0u64.to_le_bytes());
        }
        let length = file.len() as u64;
        let header: Vec<u8> = [
            &b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0"[..],
            &BASE.to_le_bytes(),
            &64u64.to_le_bytes(),
            &(sections_at as u64).to_le_bytes(),
            b"\0\0\0\0\x40\0\x38\0\x01\0\x40\0\x04\0\x03\0",
            // The segment: loaded, readable.
            b"\x01\0\0\0\x04\0\0\0",
            &0u64.to_le_bytes(),
            &BASE.to_le_bytes(),
            &BASE.to_le_bytes(),
            &length.to_le_bytes(),
            &length.to_le_bytes(),
            &4096u64.to_le_bytes(),
        ]
        .concat();
        file[..header.len()].copy_from_slice(&header);
        file
    }
}
