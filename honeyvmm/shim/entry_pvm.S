/* The way in and out where ring 3 is native and ring 0 is emulated, about 0.6 us an instruction (KVM's PVM backend; SYSCALL stays at CPL 3).
 *
 * The shim runs at CPL 3 in the guest kernel's address space. In the user's there is of it: one page of int3 that SYSCALL lands on,
 * and, for CPL 0 only, the descriptor tables and the stubs of four to six instructions that load the kernel's CR3 and go to the shim.
 * They never return to where they came from, so it does not matter who raised the exception: the shim looks at the frame.
 * The way to the user is #DE of the kernel's IDT: the shim divides by zero, the stub loads CR3 and leaves by a frame made ready. After
 * a system call, whose rcx and r11 say nothing more, the stub of two instructions does: it returns to the address of the division, where
 * the user's view has `mov %r11, %rax; mov $0x246, %r11d; jmp *%rcx`. c_out chooses by the IDT's entry.
 */
#include "area.h"
#include "registers.inc"

/* The trampoline as the kernel sees it. The user's is filled with int3 by the VMM. */
	.section .trampoline, "ax"
	jmp hypercall_entry          /* LSTAR: a hypercall */
	.org TRAMPOLINE_CSTAR
	int3                         /* CSTAR: the guest kernel has no 32-bit code */
	.org TRAMPOLINE_EXIT
leave:	divl zero(%rip)

/* CPL 0: emulated, so every instruction counts. */
	.section .gate, "ax"
.globl gate_exit, gate_exit_fast, gate_call, gate_page_fault, gate_user
gate_exit:                           /* kernel's #DE: rax = CR3 */
	mov %rax, %cr3
	mov gate+GATE_EXIT_RAX(%rip), %rax
	lea gate+GATE_EXIT(%rip), %rsp
	iretq
	.balign 32
gate_exit_fast:                      /* the same: rax = CR3, all else is the user's already */
	mov %rax, %cr3
	iretq
	.balign 32
gate_call:                           /* kernel's int3: the VMM answers, then back */
	out %al, $0x10
	iretq
	.balign 32
gate_page_fault:                     /* kernel's #PF */
	mov %rax, gate+GATE_RAX(%rip)
	mov %cr2, %rax
	mov %rax, gate+GATE_CR2(%rip)
	lea gate+GATE_KERNEL(%rip), %rsp
	iretq
	.balign 64
gate_user:                           /* user's exceptions, 64 bytes each */
	.set vector, 0
	.rept 33
	.balign 64
	xchg %rax, gate+GATE_KCR3(%rip) /* the shim puts it back */
	mov %rax, %cr3
	.if vector == 14
	mov %cr2, %rax
	mov %rax, gate+GATE_CR2(%rip)
	.endif
	lea gate+GATE_USER+vector*40(%rip), %rsp
	iretq
	.set vector, vector+1
	.endr

	.text
.globl shim_text_start, shim_text_end, vmm_call, user_entries, kernel_entries, page_fault_entry, resume, restore, window_begin, window_end
.hidden shim_text_start, shim_text_end, vmm_call
shim_text_start:
GUEST_COPY

vmm_call:
	int3
	ret

hypercall_entry:
	mov %rax, area+AREA_RAX(%rip)
	SAVE_BUT_RAX 0
	mov %rsp, area+AREA_RSP(%rip)
	lea main_top(%rip), %rsp
	call c_hypercall
restore:
	call c_out
window_begin:
	/* An event that came since c_out looked: the VMM sees us in the window and comes back to restore; one that came before, we see. */
	mov area+AREA_VCPU_INFO(%rip), %rcx
	cmpb $0, (%rcx)
	je 1f
	cmpb $0, 1(%rcx)
	je restore
	/* So it is with a flush that another vcpu asks for. */
1:	mov area+AREA_FLUSH_WANTED(%rip), %rcx
	cmp area+AREA_FLUSH_DONE(%rip), %rcx
	jne restore
	cmpq $0, area+AREA_EXIT_CR3(%rip)
	jne 2f
	push $SEL_USER_SS
	pushq area+AREA_RSP(%rip)
	pushq area+AREA_RFLAGS(%rip)
	pushq area+AREA_EXIT_CS(%rip)
	pushq area+AREA_RIP(%rip)
	LOAD 0
	iretq
2:	cmpq $0, area+AREA_EXIT_FAST(%rip)
	jne 3f
	LOAD 0
	mov area+AREA_EXIT_CR3(%rip), %rax
	divl zero(%rip)
3:	LOAD 0
	mov %rax, %r11
	mov area+AREA_EXIT_CR3(%rip), %rax
	pushq area+AREA_RFLAGS(%rip)
	popfq
	mov area+AREA_RSP(%rip), %rsp
	jmp leave
window_end:
	ud2
zero:	.quad 0

resume:
	call c_resume
	jmp restore

/* From the user's view: rax is in the gate, in the place of CR3, the frame on the CPL 0 stack. */
	.balign 16
user_entries:
	.set vector, 0
	.rept 33
	.balign 16
	.if vector == 32
	push $0x80
	.else
	push $vector
	.endif
	jmp user_common
	.set vector, vector+1
	.endr
user_common:
	SAVE_BUT_RAX 0
	pop %rdi
	pushq stack0_top-8(%rip)
	pushq stack0_top-16(%rip)
	pushq stack0_top-24(%rip)
	pushq stack0_top-32(%rip)
	pushq stack0_top-40(%rip)
	pushq stack0_top-48(%rip)
	push %rdi
	mov gate+GATE_KCR3(%rip), %rax
	mov %rax, area+AREA_RAX(%rip)
	mov area+AREA_KERNEL_CR3(%rip), %rax
	mov %rax, gate+GATE_KCR3(%rip)
	mov %rsp, %rdi
	sub $8, %rsp
	call c_trap
	jmp restore

/* From the kernel's view: #PF through its stub, all else straight here with a frame on the IST stack. */
page_fault_entry:
	pushq stack0_top-8(%rip)
	pushq stack0_top-16(%rip)
	pushq stack0_top-24(%rip)
	pushq stack0_top-32(%rip)
	pushq stack0_top-40(%rip)
	pushq stack0_top-48(%rip)
	push $14
	mov gate+GATE_RAX(%rip), %rax
	jmp kernel_common
	.balign 16
kernel_entries:
	.set vector, 0
	.rept 33
	.balign 16
	PUSH_ERROR vector
	.if vector == 32
	push $0x80
	.else
	push $vector
	.endif
	jmp kernel_common
	.set vector, vector+1
	.endr
kernel_common:
	push %rax
	push %rbx
	mov 32(%rsp), %rax
	lea shim_text_start(%rip), %rbx
	sub %rbx, %rax
	cmp $(shim_text_end - shim_text_start), %rax
	pop %rbx
	pop %rax
	jb nested
	mov %rax, area+AREA_RAX(%rip)
	SAVE_BUT_RAX 0
	mov %rsp, %rdi
	lea main_top(%rip), %rsp
	call c_trap
	jmp restore
nested:
	mov %rax, area+AREA_NESTED(%rip)
	SAVE_BUT_RAX AREA_NESTED
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call c_trap_nested
	mov %rbx, %rsp
	LOAD AREA_NESTED
	add $16, %rsp
	iretq

STACKS
