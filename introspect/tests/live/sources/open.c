/* Opens what busybox cannot, begins a second thread, and waits. Without a C library, so that it is small enough to be typed. */
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <linux/sched.h>
#include <sys/prctl.h>

static long call(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

static char stack[4096] __attribute__((aligned(16)));

__attribute__((naked)) static long begin_thread(long flags __attribute__((unused)), void *top __attribute__((unused)))
{
    __asm__("mov $56, %eax\n xor %edx, %edx\n xor %r10d, %r10d\n xor %r8d, %r8d\n syscall\n"
            "test %eax, %eax\n jnz 1f\n mov $157, %eax\n mov $15, %edi\n lea name(%rip), %rsi\n syscall\n"
            "2: mov $34, %eax\n syscall\n jmp 2b\n 1: ret\n"
            "name: .asciz \"second\"\n");
}

void _start(void)
{
    int ends[2];
    struct sockaddr_un name = { AF_UNIX, "\0hidden" };
    struct sockaddr_in6 port = { .sin6_family = AF_INET6, .sin6_port = __builtin_bswap16(4005) };
    call(SYS_epoll_create1, 0, 0, 0, 0, 0);
    call(SYS_eventfd2, 0, 0, 0, 0, 0);
    call(SYS_memfd_create, (long)"memory", 0, 0, 0, 0);
    call(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, (long)ends, 0);
    call(SYS_bind, call(SYS_socket, AF_UNIX, SOCK_DGRAM, 0, 0, 0), (long)&name, 2 + 7, 0, 0);
    call(SYS_bind, call(SYS_socket, AF_INET6, SOCK_DGRAM, 0, 0, 0), (long)&port, sizeof port, 0, 0);
    call(SYS_socket, AF_NETLINK, SOCK_RAW, 0, 0, 0);
    begin_thread(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, stack + sizeof stack);
    for (;;)
        call(SYS_pause, 0, 0, 0, 0, 0);
}
