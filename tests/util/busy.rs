//! A guest that is busy: memory with a pattern, and files in memory and on a disk that are written anew all the time, each with its own sum.

use super::guest::Guest;

/// Starts it, with so many MiB of a pattern. The disk has a file system already, or gets one.
pub fn start(guest: &mut Guest, pattern_mib: u32) {
    guest.run(&format!(
        "mkdir -p /m /d; mount -t tmpfs none /m; mount /dev/xvda /d 2>/dev/null || {{ mke2fs -q /dev/xvda 2>/dev/null || mkfs.ext2 /dev/xvda >/dev/null; mount /dev/xvda /d; }}; \
         dd if=/dev/urandom of=/m/pattern bs=1M count={pattern_mib} 2>/dev/null; sha256sum /m/pattern > /m/sum; rm -f /m/stop; \
         (i=0; while [ ! -e /m/stop ]; do i=$((i+1)); head -c 20000 /dev/urandom > /d/f.$((i%8)).new; \
          sha256sum < /d/f.$((i%8)).new > /d/s.$((i%8)).new; mv /d/f.$((i%8)).new /d/f.$((i%8)); mv /d/s.$((i%8)).new /d/s.$((i%8)); \
          head -c 300000 /dev/urandom > /m/p.$((i%4)).new; sha256sum < /m/p.$((i%4)).new > /m/q.$((i%4)).new; \
          mv /m/p.$((i%4)).new /m/p.$((i%4)); mv /m/q.$((i%4)).new /m/q.$((i%4)); \
          echo $i > /d/count.new; mv /d/count.new /d/count; done) >/dev/null 2>&1 & busy=$!"
    ));
    assert_eq!(guest.run("grep -c ' /d ext' /proc/mounts"), "1", "the disk is mounted");
    // All files are there.
    guest.run("while [ \"$(cat /d/count 2>/dev/null || echo 0)\" -lt 9 ]; do sleep 0.1; done");
}

/// Stops the writer between two files; everything is as its sums say. Answers how far the writer came.
#[track_caller]
pub fn stop_and_check(guest: &mut Guest) -> u32 {
    let said = guest.run(
        "touch /m/stop; wait $busy; sha256sum -c /m/sum; bad=0; for i in 0 1 2 3 4 5 6 7; do \
         [ -e /d/s.$i ] && [ \"$(sha256sum < /d/f.$i)\" = \"$(cat /d/s.$i)\" ] || bad=$((bad+1)); done; \
         for i in 0 1 2 3; do [ -e /m/q.$i ] && [ \"$(sha256sum < /m/p.$i)\" = \"$(cat /m/q.$i)\" ] || bad=$((bad+1)); done; \
         echo bad $bad count $(cat /d/count); sync; umount /d; echo unmounted",
    );
    let whole = said.contains("/m/pattern: OK") && said.contains("bad 0 ") && said.contains("unmounted");
    assert!(whole, "{said}");
    said.split("count ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}
