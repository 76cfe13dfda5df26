"""LiteRT models of one operation, built without TensorFlow (ai-edge-litert ships the schema), and run in its interpreter."""

import numpy as np

RESOLVERS = {"reference": "BUILTIN_REF", "ruy": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "xnnpack": "AUTO"}
"""Ours -> what the interpreter calls the kernels."""


class Graph:
    """A model of one subgraph: tensors are added with their quantisation, then operations between them."""

    def __init__(self):
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.subgraph = schema.SubGraphT()
        self.subgraph.name = "main"
        self.subgraph.tensors, self.subgraph.operators = [], []
        self.model = schema.ModelT()
        self.model.version = 3  # of the file format
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.model.subgraphs = [self.subgraph]

    def tensor(self, shape, dtype, scale=None, zero=0, data=None, name=None):
        """-> its number. scale: a number, or one for each index along axis 0; data: for a constant."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name or f"t{len(self.subgraph.tensors)}", list(shape)
        tensor.type = getattr(self.schema.TensorType, np.dtype(dtype).name.upper())
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            scales = np.atleast_1d(scale).tolist()
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = scales, [zero] * len(scales)
            tensor.quantization.quantizedDimension = 0
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def operation(self, name, inputs, outputs, version, options=None, **values):
        """Add an operation of the schema's name, with its options (of the type <options>OptionsT)."""
        schema = self.schema
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), version
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes)
        operator.inputs, operator.outputs = inputs, outputs
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options + "Options")
            operator.builtinOptions = getattr(schema, options + "OptionsT")()
            for key, value in values.items():
                setattr(operator.builtinOptions, key, value)
        self.model.operatorCodes.append(code)
        self.subgraph.operators.append(operator)
        self.subgraph.inputs = [i for i in inputs if not self.subgraph.tensors[i].buffer]
        self.subgraph.outputs = outputs
        return self

    def content(self):
        """The model as a .tflite file has it."""
        import flatbuffers

        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def run(self, numerics, *arrays):
        """The first output, computed by the kernels of one of RESOLVERS."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = getattr(OpResolverType, RESOLVERS[numerics])
        interpreter = Interpreter(model_content=self.content(), experimental_op_resolver_type=kernels, num_threads=1)
        interpreter.allocate_tensors()
        for details, array in zip(interpreter.get_input_details(), arrays, strict=True):
            interpreter.set_tensor(details["index"], array)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
