//! The function tracer, which rewrites 37,000 places of the kernel while it runs through them: each may be met half written, as `int3`. KVM does
//! not tell the VMM of such a trap while it waits for its delivery, so an event at that moment must not move the registers.

use super::guest::Guest;

#[test]
fn the_function_tracer_goes_on_and_off_under_a_running_kernel() {
    let mut guest = Guest::start_with(&[]);
    guest.run("mkdir -p /t; mount -t tracefs none /t; while :; do :; done & echo $! > /loop");
    for tracer in ["function", "nop"] {
        guest.run(&format!("echo {tracer} > /t/current_tracer"));
        assert_eq!(guest.run("cat /t/current_tracer"), tracer);
    }
    guest.run("kill $(cat /loop)");
}
