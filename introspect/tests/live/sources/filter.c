/* Loads an eBPF program, a filter of sockets that lets nothing by, and waits. Without a C library, so that it is small enough to be typed. */
#include <linux/bpf.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

void _start(void)
{
    static const struct bpf_insn code[] = {
        { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
        { .code = BPF_JMP | BPF_EXIT },
    };
    static union bpf_attr attributes = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2, .prog_name = "ours" };
    attributes.insns = (unsigned long)code;
    attributes.license = (unsigned long)"GPL";
    if (call(SYS_bpf, BPF_PROG_LOAD, (long)&attributes, sizeof attributes) < 0)
        call(SYS_exit, 1, 0, 0);
    for (;;)
        call(SYS_pause, 0, 0, 0);
}
