/* Entry, notes and trap handlers of the hostile kernel (kernel.c). */
	.section .text.start, "ax"
	.globl _start
_start:
	mov %rsi, %rdi
	call kernel_main
1:	jmp 1b

	.text
/* A handler that counts and goes past a two-byte instruction. The frame: rcx, r11, [error], rip, cs, rflags, rsp, ss. */
	.globl skip_two, skip_two_with_error, loop_for_ever, trap_count
skip_two_with_error:
	incq trap_count(%rip)
	pop %rcx
	pop %r11
	add $8, %rsp
	jmp 1f
skip_two:
	incq trap_count(%rip)
	pop %rcx
	pop %r11
1:	addq $2, (%rsp)
	/* iret's frame: rax, r11, rcx, flags, then rip and its companions. */
	push $0
	push %rcx
	push %r11
	push %rax
	mov $23, %eax
	syscall
/* A handler that faults again, on the stack that it began with: an exception without end. */
loop_for_ever:
	mov trap_stack(%rip), %rsp
	ud2

	.globl trap_stack
	.data
trap_count: .quad 0
trap_stack: .quad 0

	.macro NOTE type, value:vararg
	.balign 4
	.long 4, 2f - 1f, \type
	.asciz "Xen"
1:	\value
2:
	.endm
	.section .note, "a", @note
	NOTE 1, .quad _start
	NOTE 3, .quad 0xffffffff80000000
	NOTE 6, .asciz "hostile"
	NOTE 5, .asciz "xen-3.0"
