// Package router reads the tables of routers, as their own commands print them. It is pure.
package router
