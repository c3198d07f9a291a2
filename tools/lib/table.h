/* A table for people: columns as wide as their widest cell, numbers to the right. */
#ifndef QUIPU_TOOLS_LIB_TABLE_H
#define QUIPU_TOOLS_LIB_TABLE_H

#include <stdio.h>

#define TABLE_COLUMNS_MAX 16

struct table {
	unsigned columns;
	char **cell; /* owned */
	size_t n, cap;
};

/* Names in one text, with blanks between. */
void table_init(struct table *t, const char *heads);
/* The next cell, row by row. */
void table_cell(struct table *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Print and release. */
void table_print(struct table *t, FILE *f);

#endif
