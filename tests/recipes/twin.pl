# The calls of the default set that no shell makes by itself; numbers are arch/x86/entry/syscalls/syscall_64.tbl's.
use strict;
use warnings;
use Socket;

my $cwd = -100;
sub call { my ($number, @arguments) = @_; return syscall($number, @arguments); }
my $zero = 0;

# Files, by the names that come first and by descriptors.
my $fd = call(2, "old", 0102, 0644);
call(18, $fd, "0123456789", 10, 5);
call(17, $fd, my $read = "\0" x 16, 16, 0);
call(77, $fd, 3);
call(91, $fd, 0600);
call(93, $fd, 1, 1);
call(3, $fd);
call(3, $fd);
$fd = call(85, "created", 0600);
my ($first, $second) = ("first ", "second");
my $vector = pack("P Q P Q", $first, 6, $second, 6);
call(20, $fd, $vector, 2);
call(3, $fd);
$fd = call(2, "created", 0);
my ($left, $right) = ("\0" x 8, "\0" x 8);
call(19, $fd, pack("P Q P Q", $left, 8, $right, 8), 2);
call(3, $fd);
call(258, $cwd, "folder", 0700);
call(264, $cwd, "old", $cwd, "older");
call(316, $cwd, "older", $cwd, "oldest", 1);
call(265, $cwd, "oldest", $cwd, "linked", 0);
call(266, "oldest", $cwd, "pointing");
call(268, $cwd, "oldest", 0640);
call(260, $cwd, "oldest", 2, 2, 0);
call(263, $cwd, "folder", 0x200);
call(263, $cwd, "not there", 0);
call(437, $cwd, "oldest", pack("Q Q Q", 0, 0, 0), 24);
call(76, "oldest", 1);
call(82, "oldest", "x" x 300);
call(94, "pointing", 3, 3);
call(90, "/proc/self/nowhere", 0777);
my $here = call(2, ".", 0200000);
call(80, "/");
call(81, $here);
call(319, "in memory", 1);

# What an intruder asks of the kernel.
call(165, "none", "/mnt", "tmpfs", 0, "size=64k");
call(166, "/mnt", 0);
call(175, $zero, 0, "");
call(313, 99, "", 0);
call(176, "not_loaded", 0);
call(321, 99, 0, 0);
call(101, 99, 0, 0, 0);

# Sockets, within one process.
socket(my $server, PF_INET, SOCK_STREAM, 0) or die;
# The script runs more than once.
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
bind($server, sockaddr_in(7777, inet_aton("127.0.0.1"))) or die "bind: $!";
listen($server, 1);
socket(my $client, PF_INET, SOCK_STREAM, 0) or die;
connect($client, sockaddr_in(7777, inet_aton("127.0.0.1"))) or die "connect: $!";
accept(my $peer, $server) or die;
send($client, "to the server", 0);
recv($peer, my $got, 100, 0);
my $out = "a message";
my $iov = pack("P Q", $out, 9);
call(46, fileno($peer), pack("Q L x4 P Q Q Q L x4", 0, 0, $iov, 1, 0, 0, 0), 0);
my $in = "\0" x 32;
my $iov_in = pack("P Q", $in, 32);
call(47, fileno($client), pack("Q L x4 P Q Q Q L x4", 0, 0, $iov_in, 1, 0, 0, 0), 0);
socket(my $local, PF_UNIX, SOCK_DGRAM, 0) or die;
connect($local, sockaddr_un("/run/nobody-listens"));
socket(my $datagrams, PF_INET, SOCK_DGRAM, 0) or die;
send($datagrams, "a datagram", 0, sockaddr_in(7778, inet_aton("127.0.0.1")));

# Processes.
pipe(my $reader, my $writer);
my $child = fork();
if ($child == 0) {
    sysread($reader, my $byte, 1);
    call(161, "/root");
    call(106, 65534);
    call(116, 0, 0);
    call(119, 65534, 65534, 65534);
    call(113, -1, 65534);
    call(117, 65534, 65534, 65534);
    call(105, 0);
    call(112);
    exec { "./twin.sh" } "no program", "with an argument";
    exit(7);
}
syswrite($writer, "x");
waitpid($child, 0);
my $sleeper = fork();
if ($sleeper == 0) {
    sleep(1000);
    exit(0);
}
kill("TERM", $sleeper);
waitpid($sleeper, 0);
kill(0, $sleeper);

# Signals that come while a call waits, or because of it: the program goes on in the handler, or makes the call again.
$SIG{USR1} = sub { };
$SIG{PIPE} = sub { };
my $parent = $$;
pipe(my $from, my $to);
my $sender = fork();
if ($sender == 0) {
    select(undef, undef, undef, 0.7);
    kill("USR1", $parent);
    exit(0);
}
sysread($from, my $nothing, 1);
waitpid($sender, 0);
my $stopped = fork();
if ($stopped == 0) {
    sysread($from, my $byte, 1);
    exit(0);
}
select(undef, undef, undef, 0.7);
kill("STOP", $stopped);
select(undef, undef, undef, 0.7);
kill("CONT", $stopped);
select(undef, undef, undef, 0.7);
syswrite($to, "y");
waitpid($stopped, 0);
close($from);
syswrite($to, "into nothing");
call(234, $$, $$, 0);
call(200, $$, 0);
call(322, $cwd, "/not/here", 0, 0, 0);
exec("/bin/echo", "last", "words");
