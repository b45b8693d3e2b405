#: what    cargo init, build, test, nothing to do, one file changed, run; target in the folder
#: needs   cargo rustc
#: limit   400
export CARGO_NET_OFFLINE=true
[ -d /root/.rustup ] && export RUSTUP_HOME="${RUSTUP_HOME:-/root/.rustup}"
cargo new -q --vcs none demo && cd demo && printf 'pub fn f(x: i32) -> i32 { x + 1 }\n#[test]\nfn t() { assert_eq!(f(1), 2); }\n' > src/lib.rs && echo 'fn main() { println!("{}", demo::f(41)); }' > src/main.rs
cargo run -q && cargo test -q 2>&1 | grep 'test result' | sed 's/finished.*//' && cargo build 2>&1 | grep -c Compiling || true
sleep 0.02 && sed -i 's/41/42/' src/main.rs && cargo build 2>&1 | grep -c Compiling && cargo run -q && cargo build --release -q && ls target && cargo clean -q && ls
